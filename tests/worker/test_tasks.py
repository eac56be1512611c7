"""The tasks in a real worker: hand-over, retries, the lock, limits, and results that are true."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from celery.result import AsyncResult
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError

from cleanup_tasks import app, cleanup, cleanup_fallback
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.lock import TTL_S
from cleanup_tasks.servers.pipelining import HIGH_LATENCY, LOW_LATENCY
from cleanup_tasks.sweep.cleaner import Cleaner
from cleanup_tasks.sweep.sweep import LOCKED
from cleanup_tasks.tasks import CleanupTask
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, free_port, running_server, wait_until
from demo.stack import Stack
from tests.support.backends import forget_backend
from tests.support.proxy import Proxy
from tests.support.resetting import reset
from tests.support.sweeping import interrupted_by

STALE, ACTIVE = 990, 10
DOOMED = STALE * KEYS_EACH
KEPT = ACTIVE * KEYS_EACH
ORDER = [
    "target",
    "totalCoordinatorsChecked",
    "staleCoordinatorsFound",
    "keysDeleted",
    "executionTimeMs",
    "coordinatorsPerSecond",
    "dryRun",
    "implementation",
    "fallbackReason",
    "staleThresholdSeconds",
    "activeCoordinators",
    "unreadableHeartbeats",
    "heartbeatsAhead",
    "unreadableByReason",
    "unreadableExamples",
    "revivedCoordinators",
    "cleanupErrors",
    "complete",
    "skipped",
    "held",
    "heldSinceMs",
    "heldUntilMs",
    "failure",
    "orphanedCoordinatorsFound",
    "orphanedCoordinatorsReaped",
    "orphanedCoordinatorsWaiting",
    "nextOrphanDueSeconds",
    "orphanKeysDeleted",
    "staleCoordinatorIds",
    "staleCoordinatorIdsOmitted",
]


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def coordination() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(coordination: Server) -> Iterator[Proxy]:
    with Proxy(coordination.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stack(broker: Server, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {
        "COORDINATION_REDIS_URL": proxy.url,
        "CELERY_BROKER_URL": f"{broker.url}/0",
        "CELERY_RESULT_BACKEND": f"{broker.url}/1",
        "CLEANUP_INTERVAL_SECONDS": "60",
        "CLEANUP_LOG_FILE": "",
    }
    forget_backend(app)
    app.conf.update(broker_url=f"{broker.url}/0", result_backend=f"{broker.url}/1")
    with Stack(environment, tmp_path_factory.mktemp("stack")) as stack:
        stack.start_worker()
        yield stack
    app.close()
    forget_backend(app)
    # a result that nobody holds any more tells the broker so, which is there until now
    gc.collect()


@pytest.fixture(scope="module")
def in_vain(stack: Stack) -> AsyncResult:
    """A task that is tried again and again, for nobody is there: begun first, and looked at last."""
    nowhere = {"COORDINATION_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    stack.start_worker("in-vain", "--queues", "in-vain", environment=nowhere)
    return cleanup.apply_async(queue="in-vain")


@pytest.fixture
def fleet(coordination: Server, proxy: Proxy, stack: Stack, in_vain: AsyncResult) -> Iterator[Redis]:
    """A client of the coordination server, which holds a small acceptance data set."""
    proxy.refusing = False
    proxy.cut_at(b"", 0)
    with coordination.client() as client:
        reset(coordination, client)
        write_acceptance_data(client, STALE + ACTIVE, ACTIVE)
        yield client
        reset(coordination, client)


def acl(client: Redis, *rules: str) -> None:
    """Change what the default user may do."""
    client.execute_command("ACL", "SETUSER", "default", *rules)  # type: ignore[no-untyped-call]


def assert_cleaned(client: Redis, metrics: dict[str, Any]) -> None:
    """All that is stale went, and the metrics say so."""
    assert client.dbsize() == KEPT
    assert list(metrics) == ORDER
    assert metrics["keysDeleted"] == DOOMED
    assert metrics["staleCoordinatorsFound"] == STALE
    assert metrics["activeCoordinators"] == ACTIVE
    assert metrics["totalCoordinatorsChecked"] == STALE + ACTIVE
    assert len(metrics["staleCoordinatorIds"]) + metrics["staleCoordinatorIdsOmitted"] == STALE
    assert (metrics["complete"], metrics["cleanupErrors"], metrics["skipped"]) == (True, 0, None)


def test_cleanup(fleet: Redis) -> None:
    result = cleanup.delay()
    metrics = result.get(timeout=30)
    assert_cleaned(fleet, metrics)
    assert (metrics["implementation"], metrics["fallbackReason"], metrics["dryRun"]) == ("lua", None, False)
    assert len(metrics["staleCoordinatorIds"]) == 100
    assert not fleet.exists(keys.LOCK)


def test_dry_run(fleet: Redis) -> None:
    metrics = cleanup.delay(dry_run=True).get(timeout=30)
    assert fleet.dbsize() == DOOMED + KEPT
    assert (metrics["keysDeleted"], metrics["dryRun"], metrics["complete"]) == (DOOMED, True, True)


def test_threshold(fleet: Redis) -> None:
    metrics = cleanup.delay(stale_threshold_seconds=30, force=True).get(timeout=30)
    assert (metrics["staleCoordinatorsFound"], metrics["staleThresholdSeconds"]) == (STALE + ACTIVE, 30)
    assert fleet.dbsize() == 0


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"dry_run": "false"}, "dry_run: true or false"),
        ({"dry_run": 1}, "dry_run: true or false"),
        ({"dry_run": None}, "dry_run: true or false"),
        ({"stale_threshold_seconds": -1}, "stale_threshold_seconds: a whole number of seconds"),
        ({"stale_threshold_seconds": 1.5}, "stale_threshold_seconds: a whole number of seconds"),
        ({"stale_threshold_seconds": "600"}, "stale_threshold_seconds: a whole number of seconds"),
        ({"stale_threshold_seconds": True}, "stale_threshold_seconds: a whole number of seconds"),
        ({"stale_threshold_seconds": 10**12}, "stale_threshold_seconds: a whole number of seconds"),
        ({"orphans": "kill"}, "orphans: off, report or reap"),
        ({"orphans": True}, "orphans: off, report or reap"),
        ({"target": "eu"}, "target: the name of a configured target .*known are default"),
        ({"dryrun": True}, "dryrun"),
    ],
)
@pytest.mark.parametrize("task", [cleanup, cleanup_fallback], ids=["cleanup", "fallback"])
def test_wrong_arguments_touch_nothing(
    fleet: Redis, task: Any, arguments: dict[str, Any], names: str
) -> None:
    # at the caller, before a message is sent
    with pytest.raises((ValueError, TypeError), match=names):
        task.delay(**arguments)
    # and in the worker, for callers that send by name
    with pytest.raises((ValueError, TypeError), match=names):
        app.send_task(task.name, kwargs=arguments).get(timeout=30)
    with pytest.raises((ValueError, TypeError), match=names):
        task(**arguments)
    assert fleet.dbsize() == DOOMED + KEPT


def test_orphans(fleet: Redis) -> None:
    fleet.set("blocking:signal:gone", "1")
    assert cleanup.delay(dry_run=True).get(timeout=30)["orphanedCoordinatorsFound"] == 1
    assert cleanup.delay(orphans="off").get(timeout=30)["orphanedCoordinatorsFound"] == 0
    cleanup.delay(orphans="reap").get(timeout=30)
    fleet.hset(keys.SIGHTINGS, "gone", 1)
    acl(fleet, "-evalsha")
    metrics = cleanup.delay(orphans="reap", stale_threshold_seconds=599).get(timeout=30)
    # reaping nothing stale needs no engine, so it is the orphan that made scripting fail
    assert metrics["implementation"] == "python"
    assert (metrics["orphanedCoordinatorsReaped"], metrics["orphanKeysDeleted"]) == (1, 1)
    assert fleet.dbsize() == KEPT


def test_the_fallback_takes_over_where_scripting_is_refused(fleet: Redis) -> None:
    acl(fleet, "-evalsha")
    result = cleanup.delay()
    metrics = result.get(timeout=30)
    assert_cleaned(fleet, metrics)
    assert metrics["implementation"] == "python"
    assert "evalsha" in metrics["fallbackReason"]
    assert result.name == "cleanup_tasks.cleanup_fallback"
    assert result.retries == 1
    assert "cmdstat_eval" not in fleet.info("commandstats")


def test_the_hand_over_keeps_the_arguments_and_the_message(fleet: Redis, stack: Stack) -> None:
    acl(fleet, "-evalsha")
    result = cleanup.apply_async(
        kwargs={"dry_run": True, "stale_threshold_seconds": 30, "force": True},
        expires=50,
        soft_time_limit=40,
        time_limit=45,
        link=cleanup_fallback.signature(kwargs={"dry_run": True}, immutable=True),
    )
    metrics = result.get(timeout=30)
    assert (metrics["dryRun"], metrics["implementation"]) == (True, "python")
    assert (metrics["keysDeleted"], metrics["staleThresholdSeconds"]) == (DOOMED + KEPT, 30)
    assert result.kwargs == {"dry_run": True, "stale_threshold_seconds": 30, "force": True}
    assert result.queue == "cleanup"
    assert fleet.dbsize() == DOOMED + KEPT
    wait_until(lambda: result.children, "the link is there")
    (linked,) = result.children
    assert linked.get(timeout=30)["keysDeleted"] == DOOMED


def test_the_fallback_on_its_own(fleet: Redis) -> None:
    metrics = cleanup_fallback.delay().get(timeout=30)
    assert_cleaned(fleet, metrics)
    assert (metrics["implementation"], metrics["fallbackReason"]) == ("python", "requested")


def test_a_lost_connection_is_tried_again(fleet: Redis, proxy: Proxy, stack: Stack) -> None:
    proxy.refusing = True
    broken = proxy.broken
    result = cleanup.delay()
    wait_until(lambda: "Retry in 2s" in stack.log("worker"), "the first attempt failed")
    assert fleet.dbsize() == DOOMED + KEPT
    proxy.refusing = False
    assert_cleaned(fleet, result.get(timeout=30))
    assert result.retries == 1
    assert proxy.broken > broken


def test_a_lost_answer_is_tried_again_and_told(fleet: Redis, proxy: Proxy) -> None:
    # Given a connection that breaks after the server did a batch and before it said so
    proxy.cut_at(b"EVALSHA", 1 + HIGH_LATENCY.in_flight + 1)  # the first call is a trial with nothing to do
    result = cleanup.delay()
    metrics = result.get(timeout=30)
    # Then the retry does the rest, and the numbers are what the server said: less than what went
    assert fleet.dbsize() == KEPT
    assert result.retries == 1
    # (the link may be slow on a busy machine)
    assert metrics["cleanupErrors"] in (LOW_LATENCY.in_flight, HIGH_LATENCY.in_flight)
    assert not metrics["complete"]
    unknown = DOOMED - metrics["keysDeleted"]
    assert 0 < unknown <= metrics["cleanupErrors"] * HIGH_LATENCY.batch_keys
    assert metrics["staleCoordinatorsFound"] == STALE - unknown // KEYS_EACH
    assert (
        metrics["staleCoordinatorsFound"]
        == len(metrics["staleCoordinatorIds"]) + metrics["staleCoordinatorIdsOmitted"]
    )


def test_a_wrong_password_is_not_tried_again(fleet: Redis, stack: Stack) -> None:
    acl(fleet, "resetpass", ">secret")
    result = cleanup.delay()
    with pytest.raises(AuthenticationError):
        result.get(timeout=30)
    assert (result.state, result.retries or 0) == ("FAILURE", 0)


def test_a_failure_in_the_middle_is_told_whole(fleet: Redis, stack: Stack) -> None:
    acl(fleet, "resetkeys", "~blocking:*")
    result = cleanup.delay()
    with pytest.raises(NoPermissionError, match="the user needs"):
        result.get(timeout=30)
    assert (result.state, result.retries or 0) == ("FAILURE", 0)
    said = [
        line.split("]: ", 1)[1].strip()
        for line in stack.log("worker").splitlines()
        if f"[{result.id}]: " in line
    ]
    assert {"Keys deleted: 0", "Cleanup errors: 1", "Cleanup incomplete: the next run goes on"} <= {*said}
    assert [line.split()[1] for line in said if line.startswith("cleanup_sweep")] == ["outcome=failed"]
    assert fleet.dbsize() == DOOMED + KEPT


def test_a_read_only_server_is_tried_again(fleet: Redis) -> None:
    fleet.replicaof("127.0.0.1", "1")
    result = cleanup.delay()
    wait_until(lambda: result.state == "RETRY", "the first attempt failed")
    fleet.replicaof("NO", "ONE")
    assert_cleaned(fleet, result.get(timeout=30))


def test_a_locked_sweep_is_skipped_and_a_dry_run_is_not(fleet: Redis) -> None:
    fleet.set(keys.LOCK, "somebody else", px=60_000)
    metrics = cleanup.delay().get(timeout=30)
    assert (metrics["skipped"], metrics["keysDeleted"], metrics["complete"]) == (LOCKED, 0, False)
    assert fleet.get(keys.LOCK) == b"somebody else"
    assert cleanup.delay(dry_run=True).get(timeout=30)["keysDeleted"] == DOOMED
    assert fleet.exists(keys.LOCK, keys.SKIPPED) == 2
    assert fleet.dbsize() == DOOMED + KEPT + 2


def test_a_retry_that_finds_the_lock_held_tells_what_was_done_before(fleet: Redis, proxy: Proxy) -> None:
    # Given a first attempt that deletes some keys, and another sweep that begins before the second one
    proxy.cut_at(b"EVALSHA", 1 + HIGH_LATENCY.in_flight + 1)
    result = cleanup.delay()
    wait_until(lambda: result.state == "RETRY", "the first attempt failed")
    fleet.set(keys.LOCK, "somebody else", px=60_000)
    metrics = result.get(timeout=30)
    assert result.retries == 1
    assert metrics["keysDeleted"] > 0
    assert metrics["cleanupErrors"] > 0
    assert (metrics["skipped"], metrics["complete"]) == (None, False)
    assert fleet.get(keys.LOCK) == b"somebody else"


def test_a_soft_time_limit_ends_in_a_report_that_says_so(fleet: Redis) -> None:
    fleet.client_pause(60_000, all=False)  # the sweep waits for its lock
    try:
        metrics = cleanup.apply_async(soft_time_limit=1, time_limit=20).get(timeout=30)
    finally:
        fleet.client_unpause()
    assert not metrics["complete"]
    assert metrics["keysDeleted"] == 0
    # the server may still set the lock, which it was asked for before
    assert fleet.dbsize() - fleet.exists(keys.LOCK) == DOOMED + KEPT


def test_a_soft_time_limit_counts_whatever_a_library_makes_of_it(
    fleet: Redis, coordination: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cleaner, "run", interrupted_by(SoftTimeLimitExceeded))
    monkeypatch.setenv("COORDINATION_REDIS_URL", coordination.url)
    cleanup.push_request(id="interrupted", called_directly=False)
    try:
        metrics = cleanup.run()
    finally:
        cleanup.pop_request()
    assert (metrics["complete"], metrics["keysDeleted"]) == (False, 0)


def test_an_expired_message_does_nothing(fleet: Redis) -> None:
    result = cleanup.apply_async(expires=-1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert fleet.dbsize() == DOOMED + KEPT


def test_called_directly(fleet: Redis, coordination: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_URL", coordination.url)
    assert cleanup(dry_run=True)["keysDeleted"] == DOOMED
    acl(fleet, "-evalsha")
    assert cleanup.apply(kwargs={"dry_run": True}).get()["implementation"] == "python"
    assert_cleaned(fleet, cleanup())


def test_a_killed_worker_leaves_a_lock_that_frees_itself(
    coordination: Server, broker: Server, fleet: Redis, tmp_path: Path
) -> None:
    # Given a worker that is killed while the server answers its first batch
    with Proxy(coordination.port) as proxy:
        environment = {
            "COORDINATION_REDIS_URL": proxy.url,
            "CELERY_BROKER_URL": f"{broker.url}/5",
            "CELERY_RESULT_BACKEND": f"{broker.url}/6",
            "CLEANUP_LOG_FILE": "",
        }
        with Stack(environment, tmp_path) as stack:
            worker = stack.start_worker()
            proxy.cut_at(b"EVALSHA", 1 + 1, hold=True)  # the first call is a trial with nothing to do
            with app.connection_for_write(f"{broker.url}/5") as connection:
                app.send_task(cleanup.name, queue="cleanup", connection=connection)
            wait_until(lambda: proxy.broken, "the sweep waits for an answer")
            assert fleet.exists(keys.LOCK)
            os.killpg(worker.pid, signal.SIGKILL)
    assert 0 < fleet.pttl(keys.LOCK) <= TTL_S * 1000


def test_beat_fires(coordination: Server, broker: Server, fleet: Redis, tmp_path: Path) -> None:
    environment = {
        "COORDINATION_REDIS_URL": coordination.url,
        "CELERY_BROKER_URL": f"{broker.url}/7",
        "CELERY_RESULT_BACKEND": f"{broker.url}/8",
        "CLEANUP_INTERVAL_SECONDS": "2",
        "CLEANUP_LOG_FILE": str(tmp_path / "logs" / "cleanup.log"),
    }
    with Stack(environment, tmp_path) as stack:
        stack.start_worker()
        stack.start_beat()
        wait_until(
            lambda: fleet.exists(keys.COOLDOWN) and fleet.dbsize() == KEPT + 1,
            "a run that beat fired cleaned",
        )
        log = tmp_path / "logs" / "cleanup.log"
        wait_until(lambda: "[INFO] Cleanup completed successfully" in log.read_text(), "the run is logged")
        assert f"Keys deleted: {DOOMED}" in log.read_text()


@pytest.mark.parametrize("task", [cleanup, cleanup_fallback], ids=["cleanup", "fallback"])
def test_runs_end_before_the_next_tick(task: Any) -> None:
    """The limits are of the task itself, as the worker sees it."""
    interval_s = app.conf.beat_schedule["cleanup-blocking-coordination"]["schedule"].seconds
    assert 0 < task.soft_time_limit < task.time_limit < interval_s


def test_retries_end(in_vain: AsyncResult) -> None:
    with pytest.raises(ConnectionError):
        in_vain.get(timeout=60)
    assert (in_vain.retries, in_vain.queue) == (3, "in-vain")


def test_where_nobody_seems_to_be_alive_nothing_goes(fleet: Redis) -> None:
    fleet.delete(*(keys.heartbeat(b"active-coordinator-%d" % number) for number in range(ACTIVE)))
    held = cleanup.delay().get(timeout=30)
    assert (held["held"], held["keysDeleted"], held["complete"]) == (
        f"nobody beats, and {STALE} look dead",
        0,
        False,
    )
    assert held["heldUntilMs"] - held["heldSinceMs"] == 600_000
    forced = cleanup.delay(force=True).get(timeout=30)
    assert (forced["held"], forced["keysDeleted"], forced["complete"]) == (None, DOOMED, True)
    assert not fleet.exists(keys.HOLD)


@pytest.mark.parametrize("task", [cleanup, cleanup_fallback], ids=lambda task: task.name)
@pytest.mark.parametrize("way", ["s", "si", "signature", "subtask", "apply", "apply_async", "delay"])
def test_a_positional_argument_is_refused_where_it_is_written(task: CleanupTask, way: str) -> None:
    """Later, in a canvas, it would look like the result of the task before."""
    arguments = [True] if way in ("s", "si", "delay") else [(True,)]
    with pytest.raises(TypeError, match=f"{task.name} takes keyword arguments only"):
        getattr(task, way)(*arguments)
    assert task.s(dry_run=True).kwargs == task.si(dry_run=True).kwargs == {"dry_run": True}
