"""A part of the fleet dies while a sweep is at some step: who sweeps, Redis, the broker, the results."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from celery.exceptions import WorkerLostError
from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import KEYS_EACH, STALE_AGE_MS, write_coordinators
from demo.fleet import Fleet, fleet
from demo.servers import Server, free_port, running_server, stop, valkey_binary, wait_until
from tests.support.command import COMMAND, run_command
from tests.support.faults import Striking
from tests.support.scraping import scrape

STALE = [b"stale-%d" % number for number in range(30)]
LIVING = [b"living-%d" % number for number in range(3)]
DOOMED, KEPT = KEYS_EACH * len(STALE), KEYS_EACH * len(LIVING)
COUNTER = "cleanup_keys_deleted_total"
#: A word of a step's request, and the how-manieth such request it is. The first EVALSHA is a trial.
STEPS = {
    "lock": (keys.LOCK, 1),
    "find": (b"GETRANGE", 1),
    "collect": (keys.RELATED_PATTERN, 1),
    "script": (b"SCRIPT", 1),
    "delete": (b"EVALSHA", 2),
    "free the lock": (b"WATCH", 1),
}
EACH_STEP = pytest.mark.parametrize(("word", "occurrence"), STEPS.values(), ids=STEPS)


def write(client: Redis) -> None:
    """Nothing but some who are stale and some who live."""
    client.flushall()
    write_coordinators(client, STALE, STALE_AGE_MS)
    write_coordinators(client, LIVING, 1_000)


def left(client: Redis) -> tuple[int, int]:
    """How many keys there are of the stale and of the living."""
    there = [key for key in client.scan_iter(count=1_000) if not key.startswith(b"blocking:cleanup:")]
    living = sum(b"living-" in key for key in there)
    return len(there) - living, living


@pytest.fixture(scope="module")
def running(
    broker: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, Striking, subprocess.Popen[bytes]]]:
    """A worker whose way to the coordination Redis is by a proxy."""
    with running_server() as server, Striking(server.port) as proxy:
        folder = tmp_path_factory.mktemp("lost")
        with fleet(server, broker, folder, {"COORDINATION_REDIS_URL": proxy.url}) as running:
            yield running, proxy, running.stack.start_worker()


@EACH_STEP
def test_the_process_of_the_worker_is_killed(
    word: bytes, occurrence: int, running: tuple[Fleet, Striking, subprocess.Popen[bytes]]
) -> None:
    fleet, proxy, worker = running

    def kill() -> None:
        for child in psutil.Process(worker.pid).children():
            child.kill()
        raise ConnectionResetError

    with fleet.coordination.client() as client:
        write(client)
        counted = scrape(fleet.metrics_port).get(COUNTER, 0)
        proxy.strike_at(word, occurrence, kill)
        # whoever waits for the result hears of it
        with pytest.raises(WorkerLostError):
            fleet.send().get(timeout=60)
        assert left(client)[1] == KEPT
        # its lock frees itself, see test_lock
        client.delete(keys.LOCK)
        remaining = left(client)[0]
        metrics = fleet.run()
        assert (metrics["keysDeleted"], metrics["complete"]) == (remaining, True)
        assert left(client) == (0, KEPT)
        # no key is counted that did not go, and each that an answer told of is
        wait_until(
            lambda: remaining <= scrape(fleet.metrics_port)[COUNTER] - counted <= DOOMED,
            "the metrics show it",
        )


def connections(client: Redis) -> set[str]:
    """The ids of all connections of the server."""
    return {str(each["id"]) for each in client.client_list()}


@EACH_STEP
def test_the_command_is_killed(word: bytes, occurrence: int, server: Server, client: Redis) -> None:
    write(client)
    others = connections(client)
    with Striking(server.port) as proxy:
        environment = {**os.environ, "COORDINATION_REDIS_URL": proxy.url}
        # both streams go nowhere: nobody reads what a killed process has printed
        with subprocess.Popen(
            [COMMAND], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            proxy.strike_at(word, occurrence, process.kill)
            assert process.wait(timeout=60) == -signal.SIGKILL
    assert left(client)[1] == KEPT
    wait_until(lambda: connections(client) <= others, "the server knows that it is gone")
    client.delete(keys.LOCK)
    ended = run_command(server.url)
    assert ended.returncode == 0, ended.stdout
    assert left(client) == (0, KEPT)


@contextlib.contextmanager
def durable(port: int, folder: str) -> Iterator[Server]:
    """A server that has what it had when it was killed."""
    config = ("--appendonly", "yes", "--appendfsync", "always")
    server = Server(valkey_binary(), Path(folder), *config, port=port)
    try:
        server.wait()
        yield server
    finally:
        stop(server.process)


@EACH_STEP
@pytest.mark.parametrize("engine", ["lua", "python"])
def test_redis_is_killed(word: bytes, occurrence: int, engine: str) -> None:
    if engine == "python" and word in (b"SCRIPT", b"EVALSHA"):
        word, occurrence = (b"MULTI", 1) if word == b"SCRIPT" else (b"UNLINK", 1)
    port = free_port()
    name = "python" if engine == "python" else "lua"

    def options(force: bool = False) -> Options:
        return Options(address=parse(proxy.url), engine=name, orphans="report", force=force)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder, Striking(port) as proxy:
        with durable(port, folder) as server:
            with server.client() as client:
                write(client)
            proxy.strike_at(word, occurrence, server.process.kill)
            struck = Sweep(options(force=True))  # it came up a moment ago, too
            with contextlib.suppress(RedisError):
                struck.run()
            assert proxy.has_struck
            server.process.wait()
        with durable(port, folder) as server, server.client() as client:
            gone = DOOMED - left(client)[0]
            report = struck.report
            assert left(client)[1] == KEPT
            assert report.keys_deleted <= gone
            assert report.keys_deleted == gone or report.cleanup_errors
            assert not report.complete or gone == DOOMED
            # one that came up with its data a moment ago is left alone, unless somebody insists
            assert "came up" in str(Sweep(options()).run().skipped)
            client.delete(keys.LOCK)
            again = Sweep(options(force=True)).run()
            assert (again.complete, again.keys_deleted) == (True, DOOMED - gone)
            assert left(client) == (0, KEPT)


@contextlib.contextmanager
def replaceable(port: int) -> Iterator[Server]:
    """A broker or backend that may be killed."""
    with running_server(port=port) as server:
        yield server


@pytest.mark.parametrize("lost", ["broker", "backend"])
def test_the_broker_or_the_results_are_lost_while_a_task_runs(
    lost: str, server: Server, client: Redis, tmp_path: Path
) -> None:
    write(client)
    ports = {"broker": free_port(), "backend": free_port()}
    with contextlib.ExitStack() as stack, Striking(server.port) as proxy:
        parts = {name: stack.enter_context(replaceable(port)) for name, port in ports.items()}
        environment = {
            "COORDINATION_REDIS_URL": proxy.url,
            "CELERY_RESULT_BACKEND": f"{parts['backend'].url}/2",
        }
        running = stack.enter_context(fleet(server, parts["broker"], tmp_path, environment))
        running.caller.conf.result_backend = environment["CELERY_RESULT_BACKEND"]
        running.stack.start_worker()

        def lose() -> None:
            parts[lost].process.kill()
            parts[lost].process.wait()

        # the sweep is about to delete when the part dies
        proxy.strike_at(b"EVALSHA", 2, lose)
        result = running.send()
        running.stack.wait_for_line("worker", "outcome=success")
        assert proxy.has_struck
        assert left(client) == (0, KEPT)
        stack.enter_context(replaceable(ports[lost]))
        # its result is there, kept until it could be stored; and the worker goes on with what comes next
        assert result.get(timeout=60)["keysDeleted"] == DOOMED
        write(client)
        assert running.run()["keysDeleted"] == DOOMED
