"""The wheel, in a new environment and from another directory; and the source distribution."""

import contextlib
import email
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, free_port, stop, wait_until
from demo.stack import ROOT
from tests.support import leftovers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command and return what it printed; it must succeed."""
    ended = subprocess.run(
        command, cwd=cwd, env=clean(environment), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def clean(environment: dict[str, str]) -> dict[str, str]:
    """The machine's environment without what would find the checkout, and with this."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment


def packaged(wheel: Path) -> set[str]:
    """The files of a wheel, without those about it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (wheel,) = dist.glob("*.whl")
    return wheel


#: Somebody else's application, and a script without one.
HOST = """
import gc, logging, signal, sys, time
from celery import Celery, shared_task, signals

app = Celery("host", broker="{broker}/3", backend="{broker}/4", include=["colorsys"])
app.conf.task_routes = {{"host.*": {{"queue": "theirs"}}}}
app.conf.task_annotations = {{"*": {{"max_retries": 0, "rate_limit": "10/s"}}}}
app.conf.beat_schedule = {{"theirs": {{"task": "host.work", "schedule": 5.0}}}}
app.conf.timezone = "Europe/Berlin"

@shared_task(name="host.work")
def work():
    return [
        sorted(app.tasks), gc.isenabled(), gc.get_threshold(), time.tzname, logging.root.level,
        [type(handler).__name__ for handler in logging.root.handlers],
        [getattr(signal.getsignal(n), "__qualname__", 0) for n in sorted(signal.valid_signals())],
        {{name: len(getattr(signals, name).receivers or ()) for name in signals.__all__}},
        [name for name in sys.modules if name.startswith("cleanup")],
    ]
"""
#: What it says in its last line to have the cleanup too.
WITH_US = """
from cleanup_tasks import install

install(app, queue="theirs")
"""
SCRIPT = """
import gc, logging, signal, sys, time, warnings
from celery import current_app, shared_task, signals

@shared_task(name="script.work")
def work(): ...

print(current_app.main, current_app.conf.humanize(with_defaults=True, censored=False))
print(work.app.main, work.app.amqp.router.route({}, "script.work")["queue"].name)
import host
host.app.loader.import_default_modules()
print(current_app.main, host.app.conf.humanize(with_defaults=True, censored=False))
print(sorted(host.app.tasks), host.app.amqp.router.route({}, "host.work")["queue"].name)
print([host.app.tasks["host.work"].max_retries, host.app.tasks["host.work"].rate_limit])
print({name: len(getattr(signals, name).receivers or ()) for name in signals.__all__})
print(gc.isenabled(), [signal.getsignal(number) for number in signal.valid_signals()], time.tzname)
print(logging.root.level, logging.root.handlers, warnings.filters)
print([name for name in sys.modules if name.startswith("cleanup")])
"""


def behaviour(programs: Path, broker: Server, folder: Path) -> list[str]:
    """What a host's programs print that know nothing of us."""
    (folder / "host.py").write_text(HOST.format(broker=broker.url))
    celery = programs / "celery"
    with broker.client() as messages:
        messages.flushall()
    shown = [run(programs / "python", "-c", SCRIPT, cwd=folder)]
    run(celery, "-A", "host", "call", "host.work", cwd=folder)
    shown.append(run(celery, "-A", "host", "purge", "--force", "--queues=theirs", cwd=folder))
    with running_worker(programs, folder):
        code = "import host, json; print(json.dumps(host.work.delay().get(timeout=60)))"
        shown.append(run(programs / "python", "-c", code, cwd=folder))
    # without an application
    run(celery, "-b", f"{broker.url}/5", "call", "script.work", cwd=folder)
    shown.append(run(celery, "-b", f"{broker.url}/5", "purge", "--force", cwd=folder))
    script = "from celery import shared_task\n@shared_task(name='lost')\ndef lost(): ...\nlost.delay()"
    run(programs / "python", "-c", script, cwd=folder, CELERY_BROKER_URL=f"{broker.url}/6")
    with broker.client(db=6) as messages:
        # nobody takes them: they wait where a worker of theirs finds them
        shown.append(repr(sorted(messages.keys())))
    return shown


@contextlib.contextmanager
def running_worker(programs: Path, folder: Path, pool: str = "prefork", **environment: str) -> Iterator[None]:
    """The host's worker, in a folder that holds its application."""
    options = ["--pool", pool, "--concurrency", "1", "--queues", "theirs", "--loglevel", "INFO"]
    log = folder / f"{pool}.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [programs / "celery", "-A", "host", "worker", *options, "--without-mingle"],
            cwd=folder,
            env=clean(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: worker.poll() is None and "ready." in log.read_text(), "the worker is ready", 60)
        yield
    finally:
        stop(worker)


@pytest.fixture(scope="module")
def unpacked(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    (archive,) = dist.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with Celery in it."""
    home = tmp_path_factory.mktemp("home") / "venv"
    venv.create(home, with_pip=True)
    install(home, "celery[redis]", "gevent", "eventlet")
    return home


def install(home: Path, *what: str | Path) -> None:
    """Install packages into a virtual environment."""
    pip = (home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", *what, cwd=home)


@pytest.fixture(scope="module")
def before(home: Path, broker: Server, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How a host behaves in it before the wheel is there."""
    return behaviour(home / "bin", broker, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def programs(wheel: Path, home: Path, before: list[str]) -> Path:
    """The programs of that environment, with the wheel in it."""
    install(home, wheel)
    return home / "bin"


def test_a_host_behaves_as_before(before: list[str], programs: Path, broker: Server, tmp_path: Path) -> None:
    assert behaviour(programs, broker, tmp_path) == before
    assert before[0].splitlines()[-1] == "[]"
    assert "b'celery'" in before[-1]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_both_tasks_run_in_each_pool_of_a_host(
    pool: str, programs: Path, broker: Server, server: Server, client: Redis, tmp_path: Path
) -> None:
    """From the wheel, beside the host's own task."""
    (tmp_path / "host.py").write_text(HOST.format(broker=broker.url) + WITH_US)
    code = """
import json, sys, host
sent = host.app.send_task(sys.argv[1], queue="theirs")
print(json.dumps(sent.get(timeout=60)))
"""
    settings = {"COORDINATION_REDIS_URL": server.url, "CLEANUP_LOG_FILE": ""}
    with broker.client() as messages:
        messages.flushall()
    with running_worker(programs, tmp_path, pool, **settings):
        for task, engine in (("cleanup", "lua"), ("cleanup_fallback", "python")):
            write_acceptance_data(client, 100, 10)
            name = f"cleanup_tasks.{task}"
            metrics = json.loads(run(programs / "python", "-c", code, name, cwd=tmp_path))
            assert (metrics["implementation"], metrics["keysDeleted"]) == (engine, 90 * KEYS_EACH)
            client.flushall()
        (tasks, *_) = json.loads(run(programs / "python", "-c", code, "host.work", cwd=tmp_path))
        assert {"host.work", "cleanup_tasks.cleanup", "cleanup_tasks.cleanup_fallback"} < set(tasks)


def test_the_wheel_holds_one_package(wheel: Path) -> None:
    assert packaged(wheel) == {
        *(str(path.relative_to(ROOT)) for path in (ROOT / "cleanup_tasks").rglob("*.py")),
        "cleanup_tasks/py.typed",
        "cleanup_tasks/celeryconfig.py",
        "cleanup_tasks/flowerconfig.py",
        "cleanup_tasks/lua/delete_if_unchanged.lua",
        "cleanup_tasks/lua/cleanup_blocking_coordination.lua",
    }


def test_the_tests_run_from_the_source_distribution(unpacked: Path) -> None:
    pytest_there = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    # some of each kind run, and every one finds the files that it reads when it is imported
    some = ("tests/unit", "tests/engines/test_cases.py", "tests/deploy/test_makefile.py")
    assert " passed" in run(*pytest_there, *some, cwd=unpacked)
    here = run(*pytest_there, "--collect-only", "-m", "", cwd=ROOT)
    assert (
        run(*pytest_there, "--collect-only", "-m", "", cwd=unpacked).splitlines()[:-1]
        == here.splitlines()[:-1]
    )


def test_the_source_distribution_is_what_the_repository_holds(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.split("/", 1)[1] for name in tar.getnames()}
    caches = (".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__")
    here = {str(path.relative_to(ROOT)) for path in leftovers.files_in(ROOT, without=caches)}
    # where a checkout keeps its history, and what is made of its own files
    assert packed - {".git", "PKG-INFO"} == here - {".git", "PKG-INFO", ".env"}


def test_it_says_what_it_is_and_where_it_was_tested(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(c.removeprefix(prefix) for c in about.get_all("Classifier", ()) if c.startswith(prefix))
    ci = (ROOT / "Makefile").read_text()
    assert minors == ["11", "12", "13"]
    assert re.search("^test-pythons: .venv-3.12/test .venv-3.13/test", ci, re.MULTILINE)
    assert "Celery periodic task" in about["Summary"]


def test_it_cleans_from_another_directory(
    programs: Path, server: Server, client: Redis, tmp_path: Path
) -> None:
    write_acceptance_data(client, 100, 10)
    command = programs / "cleanup-blocking-coordination"
    metrics = json.loads(run(command, "--json", cwd=tmp_path, COORDINATION_REDIS_URL=server.url))
    # the packaged script did it
    assert (metrics["implementation"], metrics["keysDeleted"]) == ("lua", 90 * KEYS_EACH)
    assert client.dbsize() == 10 * KEYS_EACH
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_of_the_users_does_not_take_the_place_of_ours(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("task_default_queue = 'theirs'\n")
    shown = (
        "from celery import current_app; from cleanup_tasks import app;"
        "print(app.conf.task_default_queue, *app.conf.beat_schedule, app._config_source.__file__,"
        "current_app.conf.task_default_queue)"
    )
    for python, place in ((programs / "python", programs.parent), (Path(sys.executable), ROOT)):
        queue, entry, path, default = run(python, "-c", shown, cwd=tmp_path).split()
        assert (queue, entry) == ("cleanup", "cleanup-blocking-coordination")
        assert path.startswith(str(place))
        # the application that Celery has for programs without one is theirs
        assert default == "theirs"


@pytest.mark.parametrize("own", [False, True], ids=["packaged", "own"])
def test_flower_has_our_settings(programs: Path, broker: Server, tmp_path: Path, own: bool) -> None:
    """Without a login it listens on this machine only; but a file in the working directory is the user's."""
    if own:
        (tmp_path / "flowerconfig.py").write_text("address = '0.0.0.0'\n")
    port = free_port()
    environment = clean({"CELERY_BROKER_URL": f"{broker.url}/9", "FLOWER_DB": str(tmp_path / "flower")})
    flower = subprocess.Popen(
        [programs / "celery", "-A", "cleanup_tasks", "flower", f"--port={port}"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def answers(address: str) -> bool:
            with socket.socket() as connection:
                return connection.connect_ex((address, port)) == 0

        wait_until(lambda: answers("127.0.0.1"), "Flower listens", 60)
        # 127.0.0.2 is this machine by another address: one that a listener on 127.0.0.1 does not have
        assert answers("127.0.0.2") == own
    finally:
        stop(flower)
