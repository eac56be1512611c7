"""Real servers for the tests, each started by the tests and gone with them."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from celery import _state
from redis import Redis

import cleanup_tasks.tasks  # noqa: F401, what it shares with all applications is there from the start
from cleanup_tasks import app
from cleanup_tasks.configuration import targets
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.servers import restarts
from cleanup_tasks.sweep import notes, skips
from demo.servers import Server, running_server
from tests.support import leftovers
from tests.support.backends import backend_of, forget_backend
from tests.support.matrix import (  # noqa: F401, the hooks are for pytest
    binary_of,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_generate_tests,
    pytest_terminal_summary,
)
from tests.support.resetting import reset

ENGINES: dict[str, type[LuaEngine] | type[PythonEngine]] = {"lua": LuaEngine, "python": PythonEngine}


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_the_foreground() -> None:
    """Where the tests run in the background, or under nohup, these are ignored by all that they start."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """What the tests have started, they have stopped."""
    mark = leftovers.mark()
    os.environ.update(mark)
    yield
    leftovers.assert_no_process(mark)


def _forget_servers() -> None:
    """What a process remembers of the servers it has swept is of one test."""
    notes._remembered.clear()
    restarts._answering.clear()
    skips._warn_once.cache_clear()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the machine reaches a test, and no test the user's Redis or log file."""
    for name in list(os.environ):
        if name.startswith(("REDIS_", "COORDINATION_", "CELERY_", "CLEANUP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLEANUP_LOG_FILE", "")
    # servers of the tests come up, and take over, all the time
    monkeypatch.setenv("CLEANUP_RESTART_GRACE_SECONDS", "0")
    monkeypatch.setenv("COORDINATION_REDIS_URL", "redis://127.0.0.1:1/0")
    targets.forget()
    _forget_servers()
    yield
    targets.forget()
    _forget_servers()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(autouse=True)
def _celery_as_it_was() -> Iterator[None]:
    """No test leaves another application, or tasks for all that are made later, to the next one.

    A worker in this process makes its application the current one, and the default one of all threads. Our
    own keeps the result backend that it has made by the settings of the test.
    """
    had_backend = backend_of(app) is not None
    current, default, open_before = _state._tls.current_app, _state.default_app, set(_state._apps)
    shared = set(_state._on_app_finalizers)
    yield
    _state._on_app_finalizers.intersection_update(shared)
    _state._set_current_app(current)
    _state.set_default_app(default)
    for opened in set(_state._apps) - open_before - {app}:
        opened.close()
    if not had_backend:
        forget_backend(app)


@pytest.fixture(scope="session")
def shared_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for all tests that need no configuration of their own; see matrix for which servers."""
    # Redis 6.2 has DEBUG open, and doesn't know the setting.
    debug = [] if request.param == "redis 6.2" else ["--enable-debug-command", "local"]
    with running_server(*debug, binary=binary_of(request.param)) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A server with nothing in it, as it was when it started."""
    with shared_server.client() as client:
        reset(shared_server, client)
        client.script_flush()
        client.config_resetstat()
        client.acl_log_reset()
    return shared_server


@pytest.fixture(scope="session")
def broker() -> Iterator[Server]:
    """A second server, for messages and results."""
    with running_server() as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Redis]:
    """A client of the empty server."""
    with server.client() as client:
        yield client


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest, client: Redis) -> LuaEngine | PythonEngine:
    """Each engine in turn."""
    return ENGINES[request.param](client)
