"""The metrics of a real worker, whatever becomes of its children."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from celery.exceptions import TimeLimitExceeded
from celery.signals import task_failure
from prometheus_client import generate_latest
from pydantic.alias_generators import to_camel
from redis import Redis

import cleanup_tasks.worker
from cleanup_tasks.reporting.metrics import FIGURES, LAST, METRICS, OUTCOMES, REGISTRY
from cleanup_tasks.reporting.report import DEFAULT_TARGET
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import EXPLANATIONS
from cleanup_tasks.servers.client import CLIENT_NAME
from cleanup_tasks.servers.pipelining import LOW_LATENCY
from cleanup_tasks.tasks import cleanup
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.fleet import Fleet, fleet
from demo.servers import Server, running_server, wait_until
from demo.stack import ROOT, Stack
from tests.support.scraping import Figures, changed, parsed, scrape
from tests.support.sweeping import write_heartbeat

POOLS = {
    "prefork": ("--pool", "prefork"),
    "prefork, a new child for every other task": ("--pool", "prefork", "--max-tasks-per-child", "2"),
    "solo": ("--pool", "solo"),
    "threads": ("--pool", "threads"),
    "gevent": ("--pool", "gevent"),
    "eventlet": ("--pool", "eventlet"),
}
REASONS = ("requested", "no_permission", "unknown_command", "script_missing", "script_error", "other")
ALL_SERIES = {
    *(f'cleanup_sweeps_total{{engine="{e}",outcome="{o}"}}' for e in ("lua", "python") for o in OUTCOMES),
    *(f"{name}_total" for name, _ in FIGURES.values()),
    *(f'cleanup_fallbacks_total{{reason="{reason}"}}' for reason in REASONS),
    *(name for name, _ in LAST.values()),
    *(f'cleanup_last_sweep_unreadable_heartbeats{{reason="{reason}"}}' for reason in EXPLANATIONS),
}

#: Somebody else's application that has our tasks.
FOREIGN = "tests.support.foreign"
#: The user of the shared worker.
USER = "watched"
#: Keys of which nobody knows yet whether they are deleted: all that may be under way at once.
UNKNOWN = LOW_LATENCY.in_flight * LOW_LATENCY.batch_keys


def some_coordinators(client: Redis) -> None:
    """Four stale, two active, one unreadable: 24 keys to go."""
    write_coordinators(client, [b"stale-%d" % n for n in range(4)], STALE_AGE_MS)
    write_coordinators(client, [b"active-%d" % n for n in range(2)], ACTIVE_AGE_MS)
    write_heartbeat(client, b"odd", "unreadable")


def many_stale(client: Redis) -> int:
    """So many that a sweep can be disturbed in the middle; returns how many keys they have."""
    write_coordinators(client, [b"stale-%d" % n for n in range(20_000)], STALE_AGE_MS)
    return 6 * 20_000


@pytest.mark.parametrize("pool", list(POOLS))
def test_figures_of_every_pool(
    pool: str, client: Redis, server: Server, broker: Server, tmp_path: Path
) -> None:
    with fleet(server, broker, tmp_path) as running:
        running.stack.start_worker("worker", *POOLS[pool])
        # Every series is there from the start, at zero
        figures = scrape(running.metrics_port)
        assert {series: value for series, value in figures.items() if value} == {
            "cleanup_interval_seconds": 300
        }
        shown = {series for series in figures if "_bucket{" not in series and "_duration_" not in series}
        assert shown == ALL_SERIES
        # Given an ordinary sweep, a dry run, a requested fallback and one that finds the lock held
        some_coordinators(client)
        assert running.run(dry_run=True)["keysDeleted"] == 24
        first = running.run()
        some_coordinators(client)
        client.set("blocking:signal:without-heartbeat", "1")
        second = running.run("cleanup_fallback")
        assert first["keysDeleted"] == second["keysDeleted"] == 24
        client.set(keys.LOCK, "somebody", px=60_000)
        assert running.run()["skipped"]
        # Then the endpoint has exactly the sum of what the results say
        sums = {
            f"{counter}_total": first[name] + second[name]
            for field, (counter, _) in FIGURES.items()
            if (name := to_camel(field)) in first
        }
        expected = {series: value for series, value in sums.items() if value} | {
            'cleanup_sweeps_total{engine="lua",outcome="dry_run"}': 1,
            'cleanup_sweeps_total{engine="lua",outcome="success"}': 1,
            'cleanup_sweeps_total{engine="python",outcome="success"}': 1,
            'cleanup_sweeps_total{engine="lua",outcome="skipped"}': 1,
            'cleanup_sweep_duration_seconds_count{engine="lua"}': 2,
            'cleanup_sweep_duration_seconds_count{engine="python"}': 1,
            'cleanup_fallbacks_total{reason="requested"}': 1,
            "cleanup_coordinators_checked_total": 14,
            "cleanup_coordinators_stale_total": 8,
            "cleanup_coordinators_reaped_total": 8,
            "cleanup_coordinators_unreadable_total": 2,
            "cleanup_keys_deleted_total": 48,
            "cleanup_last_sweep_stale_coordinators": 4,
            'cleanup_last_sweep_unreadable_heartbeats{reason="not_json"}': 1,
            "cleanup_last_sweep_orphaned_coordinators": 1,
        }
        wait_until_equal(lambda: changed(scrape(running.metrics_port)), expected)
        figures = scrape(running.metrics_port)
        assert abs(figures["cleanup_last_success_timestamp_seconds"] - client.time()[0]) < 60
        # And the log says the same of each, in one line
        summaries = [line for line in running.stack.log("worker").splitlines() if "cleanup_sweep " in line]
        assert [line.split("outcome=")[1].split()[0] for line in summaries] == [
            "dry_run",
            "success",
            "success",
            "skipped",
        ]


def wait_until_equal(figures: Callable[[], Figures], expected: Mapping[str, float]) -> None:
    """Wait until the figures are these; where they don't become so, pytest shows in what they differ."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: figures() == expected, "the counts have arrived")
    assert figures() == expected


class Watched:
    """A prefork worker with one child, and what its metrics have become since a test began."""

    def __init__(self, running: Fleet, worker: subprocess.Popen[bytes]) -> None:
        """Begin now."""
        self.running = running
        self._worker = worker
        self._before = scrape(running.metrics_port)

    def changed(self) -> Figures:
        """What has changed."""
        return changed(scrape(self.running.metrics_port), self._before)

    def count(self, series: str) -> float:
        """How much a counter has grown."""
        return scrape(self.running.metrics_port)[series] - self._before[series]

    @property
    def child(self) -> int:
        """The pid of the worker's one child."""
        pid = self._worker.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


def make_user(client: Redis) -> None:
    """The user that the worker logs in as."""
    client.acl_setuser(USER, enabled=True, passwords=["+p"], keys=["*"], commands=["+@all"])


@pytest.fixture(scope="module")
def shared_worker(
    shared_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, subprocess.Popen[bytes]]]:
    """A worker for all tests that need one, and a broker that is its own."""
    with shared_server.client() as client:
        make_user(client)
    settings = {
        "COORDINATION_REDIS_URL": f"redis://{USER}:p@127.0.0.1:{shared_server.port}/0",
        "CLEANUP_HOLD_PERCENT": "0",
    }
    folder = tmp_path_factory.mktemp("metrics")
    with running_server() as broker, fleet(shared_server, broker, folder, settings) as running:
        yield running, running.stack.start_worker()
    with shared_server.client() as client:
        client.acl_deluser(USER)


@pytest.fixture
def watched(shared_worker: tuple[Fleet, subprocess.Popen[bytes]], server: Server) -> Watched:
    """The worker, and an empty server."""
    return Watched(*shared_worker)


def test_a_child_killed_in_mid_sweep(client: Redis, watched: Watched) -> None:
    doomed = many_stale(client)
    child = watched.child

    def deleted() -> int:
        return int(doomed - (client.dbsize() - client.exists(keys.LOCK)))

    def unknown() -> float:
        return deleted() - watched.count("cleanup_keys_deleted_total")

    # When the sweep has begun to delete, the server is made to hold its next step back,
    result = watched.running.send()
    wait_until(lambda: client.dbsize() < doomed, "something is deleted")
    client.client_pause(60_000, all=False)
    try:
        # and its child is killed
        # (which of the batches under way it has done by then is its own affair)
        wait_until(lambda: unknown() < UNKNOWN, "what is deleted is counted")
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")
        with pytest.raises(Exception, match="SIGKILL"):
            result.get(timeout=60)
    finally:
        client.client_unpause()
    # Then what it did is counted, and that it was lost
    gone = deleted()
    assert 0 < gone < doomed
    lost = {'cleanup_sweeps_total{engine="lua",outcome="lost"}': 1.0}
    wait_until(lambda: lost.items() <= watched.changed().items(), "the loss is counted")
    figures = watched.changed()
    known = figures.pop("cleanup_keys_deleted_total")
    assert gone - UNKNOWN < known <= gone
    assert figures.pop("cleanup_coordinators_reaped_total") == known / 6
    assert figures == lost | {
        "cleanup_coordinators_checked_total": doomed / 6,
        "cleanup_coordinators_stale_total": doomed / 6,
    }
    # And its successor's sweep adds the rest
    client.delete(keys.LOCK)
    assert watched.running.run()["keysDeleted"] == doomed - gone
    assert watched.child != child
    wait_until(lambda: unknown() == gone - known, "the rest is counted")


def test_an_attempt_that_timed_out(client: Redis, watched: Watched) -> None:
    """The report speaks of all attempts together; the metrics count the work of each once."""
    doomed = many_stale(client)
    result = watched.running.send()
    wait_until(lambda: client.dbsize() < doomed, "something is deleted")
    client.client_pause(60_000, all=False)
    try:
        wait_until(lambda: waiting_scripts(client) == 1, "the sweep waits for an answer")
        left = client.dbsize() - client.exists(keys.LOCK)
        assert 0 < left < doomed
        wait_until(lambda: waiting_scripts(client) == 0, "it waits no more")
    finally:
        client.client_unpause()
    metrics = result.get(timeout=60)
    assert (metrics["keysDeleted"], metrics["cleanupErrors"]) == (doomed, LOW_LATENCY.in_flight)
    assert not metrics["complete"]
    figures = {
        'cleanup_sweeps_total{engine="lua",outcome="retried"}': 1,
        'cleanup_sweeps_total{engine="lua",outcome="incomplete"}': 1,
        'cleanup_sweep_duration_seconds_count{engine="lua"}': 1,
        "cleanup_coordinators_checked_total": doomed / 6,
        "cleanup_coordinators_stale_total": doomed / 6,
        "cleanup_coordinators_reaped_total": doomed / 6,
        "cleanup_keys_deleted_total": doomed,
        "cleanup_errors_total": LOW_LATENCY.in_flight,
        "cleanup_last_sweep_stale_coordinators": doomed / 6,
    }
    wait_until_equal(watched.changed, figures)


def waiting_scripts(client: Redis) -> int:
    """How many connections of sweeps have called the script last."""
    ours = [c for c in client.client_list() if c["name"].startswith(CLIENT_NAME)]
    return sum(c["cmd"] == "evalsha" for c in ours)


def test_out_of_time(client: Redis, watched: Watched) -> None:
    child = watched.child
    client.client_pause(60_000, all=False)  # the sweep waits for its lock
    try:
        result = watched.running.send(seconds=3)
        wait_until(lambda: result.state == "STARTED", "the sweep has begun")
        os.kill(child, signal.SIGSTOP)  # deaf to the soft limit
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            result.get(timeout=60)
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")
    finally:
        client.client_unpause()
    watched.running.run(dry_run=True)
    expected = {
        'cleanup_sweeps_total{engine="lua",outcome="lost"}': 1,
        'cleanup_sweeps_total{engine="lua",outcome="dry_run"}': 1,
        'cleanup_sweep_duration_seconds_count{engine="lua"}': 1,
    }
    wait_until_equal(watched.changed, expected)


def test_two_tasks_that_run_out_of_time_together_count_once_each() -> None:
    """Celery announces each of them twice, in any order."""
    assert cleanup_tasks.worker  # it listens
    METRICS.watch({DEFAULT_TARGET: 300})  # all series are there
    before = parsed(generate_latest(REGISTRY).decode())
    for task_id in ("one", "two", "one", "two"):
        task_failure.send(sender=cleanup, task_id=task_id, exception=TimeLimitExceeded(1))
    now = parsed(generate_latest(REGISTRY).decode())
    assert changed(now, before) == {'cleanup_sweeps_total{engine="lua",outcome="lost"}': 2}


def test_refused_retried_failed(client: Redis, watched: Watched) -> None:
    running = watched.running
    retried = 'cleanup_sweeps_total{engine="lua",outcome="retried"}'
    some_coordinators(client)
    try:
        # Scripting is forbidden: the fallback has the work, and the reason
        client.acl_setuser(USER, enabled=True, commands=["-evalsha"])
        assert running.run()["keysDeleted"] == 24
        client.acl_setuser(USER, enabled=True, commands=["+evalsha"])
        # The server is a replica for a while: tried again
        client.replicaof("127.0.0.1", 1)
        result = running.send()
        wait_until(lambda: watched.count(retried) == 1, "the first attempt has failed")
        client.replicaof("NO", "ONE")
        assert result.get(timeout=60)["complete"]
        # The password has changed: given up at once
        client.acl_setuser(USER, enabled=True, passwords=["-p", "+q"])
        with pytest.raises(Exception, match="invalid username-password"):
            running.run()
    finally:
        client.replicaof("NO", "ONE")
        client.acl_deluser(USER)
        make_user(client)
    expected = {
        'cleanup_sweeps_total{engine="lua",outcome="refused"}': 1,
        'cleanup_sweeps_total{engine="python",outcome="success"}': 1,
        retried: 1,
        'cleanup_sweeps_total{engine="lua",outcome="success"}': 1,
        'cleanup_sweeps_total{engine="lua",outcome="failed"}': 1,
        'cleanup_fallbacks_total{reason="no_permission"}': 1,
    }
    counts = ("cleanup_sweeps_total", "cleanup_fallbacks_total")

    def outcomes() -> Figures:
        return {series: value for series, value in watched.changed().items() if series.startswith(counts)}

    wait_until_equal(outcomes, expected)
    assert watched.count("cleanup_keys_deleted_total") == 24


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, r"ERROR.* No metrics: CLEANUP_METRICS_PORT: can't listen on 127\.0\.0\.1:{port}: .*in use"),
        (
            {"CLEANUP_METRICS_ADDRESS": "192.0.2.1"},
            r"ERROR.* No metrics: CLEANUP_METRICS_PORT: can't listen on 192\.0\.2\.1:{port}: ",
        ),
        (
            {"CLEANUP_METRICS_PORT": "9549-9540"},
            r"ERROR.* No metrics: invalid settings: CLEANUP_METRICS_PORT: a port, 1 to 65535, or a range",
        ),
        (
            {"CLEANUP_METRICS_PORT": "tcp://10.96.0.6:9808"},
            r"INFO.* No metrics: CLEANUP_METRICS_PORT is the address of a Kubernetes service, and no port",
        ),
    ],
    ids=["taken", "no such address", "no range", "a service's"],
)
def test_a_worker_without_metrics_works(
    variables: dict[str, str],
    expected: str,
    client: Redis,
    server: Server,
    broker: Server,
    tmp_path: Path,
) -> None:
    """It may be a host's, which has other work; one line in its log says why."""
    with fleet(server, broker, tmp_path) as running:
        environment = {"SHOP_BROKER": f"{broker.url}/1", "SHOP_RESULTS": f"{broker.url}/2"}
        with Stack(running.stack.environment | environment | variables, tmp_path, FOREIGN) as shop:
            with socket.create_server(("127.0.0.1", running.metrics_port)):
                shop.start_worker("worker", "--queues", "shop")
            price = running.caller.send_task(f"{FOREIGN}.price", args=[4], queue="shop")
            assert price.get(timeout=60) == 12
            lines = [line for line in shop.log("worker").splitlines() if "No metrics" in line]
            assert len(lines) == 1
            assert re.search(expected.format(port=running.metrics_port), lines[0])


def test_several_workers_of_one_host(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    """``celery multi`` with a range of ports; the first of them is somebody else's."""
    with fleet(server, broker, tmp_path) as running:
        first = running.metrics_port
        environment = running.stack.environment | {"CLEANUP_METRICS_PORT": f"{first}-{first + 20}"}
        files = ["--pidfile=%n.pid", "--logfile=%n.log", "--loglevel=INFO"]
        multi = [sys.executable, "-m", "celery", "-A", "cleanup_tasks", "multi"]

        def control(verb: str) -> None:
            command = [*multi, verb, "3", "--queues=cleanup", "--concurrency=1", "--pool=threads", *files]
            environment["PYTHONPATH"] = str(ROOT)
            subprocess.run(
                command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=90
            )

        def ports() -> list[int]:
            logs = [path.read_text() for path in tmp_path.glob("celery*.log")]
            return [int(port) for log in logs for port in re.findall(r"Metrics on \S+:(\d+)/metrics", log)]

        with socket.create_server(("127.0.0.1", first)):
            try:
                control("start")
                wait_until(lambda: len(ports()) == 3, "all of them show their metrics")
                assert len({first, *ports()}) == 4
                some_coordinators(client)
                assert running.run()["keysDeleted"] == 24
                deleted = [scrape(port)["cleanup_keys_deleted_total"] for port in ports()]
                assert sorted(deleted) == [0, 0, 24]
            finally:
                control("stopwait")
