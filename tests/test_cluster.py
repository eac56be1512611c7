"""A real cluster: everything that holds on one server, and what is different there."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, ConnectionError, TryAgainError

import cleanup_tasks.cluster
from cleanup_tasks import acl, keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.cluster import Cluster
from cleanup_tasks.engines import Reaping
from cleanup_tasks.engines.cluster import ClusterEngine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.failures import is_transient
from cleanup_tasks.options import Options
from cleanup_tasks.pace import FAR
from cleanup_tasks.report import Report
from cleanup_tasks.run import Run
from cleanup_tasks.settings import load_settings
from cleanup_tasks.sweep import Sweep
from demo.dataset import keys_of
from demo.servers import Server
from demo.stack import Stack
from tests.clusters import RunningCluster, running_cluster
from tests.sweeping import heartbeat_values, new_report, script_calls
from tests.test_cases import OWNERSHIP, named

EngineClass = type[LuaEngine] | type[PythonEngine]


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RunningCluster]:
    """One cluster for all tests that leave it as it was."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: RunningCluster) -> RunningCluster:
    """A cluster with nothing in it."""
    shared_cluster.clear()
    return shared_cluster


@pytest.fixture(params=[LuaEngine, PythonEngine], ids=["lua", "python"])
def make(request: pytest.FixtureRequest) -> EngineClass:
    """Each engine's class in turn."""
    engine_class: EngineClass = request.param
    return engine_class


def sweep(cluster: RunningCluster, make: EngineClass, *, dry_run: bool = False) -> Report:
    """Sweep the cluster, and assert by the servers' own counters that this engine ran."""
    before = calls(cluster)
    with cluster.connect() as servers:
        report = new_report(make.name, dry_run=dry_run)
        Sweep(servers, servers.engine(make), report).run()
    ran = calls(cluster) - before
    assert (ran > 0) == (make.name == "lua" and report.stale_coordinators_found > 0)
    return report


def calls(cluster: RunningCluster) -> int:
    """How many EVALSHA calls the primaries counted."""
    total = 0
    for server in cluster.primaries():
        with server.client() as client:
            total += script_calls(client)
    return total


@named(OWNERSHIP["cases"])
def test_ownership(row: dict[str, Any], cluster: RunningCluster, make: EngineClass) -> None:
    beats = {
        keys.heartbeat(id_.encode()): heartbeat_values(cluster.now_ms())[kind]
        for id_, kind in row["heartbeats"].items()
    }
    cluster.set(beats | dict.fromkeys((key.encode() for key in row["keys"]), "1"))
    before = cluster.keys()
    stale = {keys.heartbeat(id_.encode()) for id_, kind in row["heartbeats"].items() if kind == "stale"}
    doomed = stale | {key.encode() for key in row["gone"]}
    # A dry run chooses the same keys and takes none.
    assert sweep(cluster, make, dry_run=True).keys_deleted == len(doomed)
    assert cluster.keys() == before
    report = sweep(cluster, make)
    assert before - cluster.keys() == doomed
    assert report.keys_deleted == len(doomed)
    assert report.complete
    assert report.implementation == make.name


def write_coordinators(cluster: RunningCluster, coordinators: list[bytes], kind: str = "stale") -> set[bytes]:
    """Write the six keys of each; returns them."""
    beat = heartbeat_values(cluster.now_ms())[kind]
    values: dict[bytes, str] = {}
    for id_ in coordinators:
        heartbeat, *related = keys_of(id_)
        values |= {heartbeat: beat, **dict.fromkeys(related, "1")}
    cluster.set(values)
    return set(values)


def renew(cluster: RunningCluster, coordinator: bytes) -> None:
    """The coordinator beats."""
    cluster.set({keys.heartbeat(coordinator): heartbeat_values(cluster.now_ms())["active"]})


class Interrupted(ClusterEngine):
    """Calls `before` ahead of a batch, and `between` after its keys in other slots went."""

    before: Callable[[int], None] = staticmethod(lambda _number: None)
    between: Callable[[], None] = staticmethod(lambda: None)
    batches = 0

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        self.before(self.batches)
        self.batches += 1
        return super().reap(batch, threshold_s, dry_run=dry_run)

    def _reap_apart(self, *arguments: Any) -> None:
        super()._reap_apart(*arguments)
        self.between()


def test_acceptance_data(cluster: RunningCluster, make: EngineClass) -> None:
    write_coordinators(cluster, [b"test-coordinator-%d" % number for number in range(9_900)])
    active = write_coordinators(
        cluster, [b"active-coordinator-%d" % number for number in range(100)], "active"
    )
    report = sweep(cluster, make)
    assert report.keys_deleted == 59_400
    assert report.complete
    assert cluster.keys() == active
    assert len(active) == 600


def test_a_hash_tag_gives_all_or_nothing(cluster: RunningCluster, make: EngineClass) -> None:
    # Given coordinators each with all keys in one slot
    ids = [b"{job-%d}" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    report = new_report(make.name)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        # When one revives after the last moment at which a key of another slot would have gone
        engine.between = lambda: renew(cluster, ids[7])
        Sweep(servers, engine, report).run()
    # Then it has lost nothing, and the others everything
    assert cluster.keys() == set(keys_of(ids[7]))
    assert report.keys_deleted == len(written) - 6
    assert report.revived_coordinators == 1
    assert report.complete


def test_a_fresh_look_before_keys_in_other_slots_go(cluster: RunningCluster, make: EngineClass) -> None:
    ids = [b"worker-%d" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    report = new_report(make.name)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.before = lambda _number: renew(cluster, ids[7])
        Sweep(servers, engine, report).run()
    assert cluster.keys() == set(keys_of(ids[7]))
    assert report.keys_deleted == len(written) - 6
    assert report.revived_coordinators == 1


def test_the_heartbeat_goes_by_compare_and_delete(cluster: RunningCluster, make: EngineClass) -> None:
    ids = [b"worker-%d" % number for number in range(20)]
    write_coordinators(cluster, ids)
    report = new_report(make.name)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.between = lambda: renew(cluster, ids[7])
        Sweep(servers, engine, report).run()
    assert cluster.keys() == {keys.heartbeat(ids[7])}
    assert report.keys_deleted == 20 * 6 - 1
    assert report.revived_coordinators == 1


def test_an_owner_that_appears_late_keeps_the_record(cluster: RunningCluster, make: EngineClass) -> None:
    record = keys.IDEMPOTENCY + b"worker:late:init"
    written = write_coordinators(cluster, [b"worker"])
    cluster.set({record: "1"})
    report = new_report(make.name)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.before = lambda _number: renew(cluster, b"late")
        Sweep(servers, engine, report).run()
    assert cluster.keys() == {record, keys.heartbeat(b"late")}
    assert report.keys_deleted == len(written)


def test_a_slot_that_moves_between_batches(cluster: RunningCluster, make: EngineClass) -> None:
    ids = [b"worker-%d" % number for number in range(400)]
    written = write_coordinators(cluster, ids)
    moved = [keys.heartbeat(ids[-1]), keys.signal(ids[-2]), keys.activity(ids[-3])]
    report = new_report(make.name)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)

        def move(number: int) -> None:
            if number < len(moved):
                cluster.move_slot(key_slot(moved[number]))

        engine.before = move
        Sweep(servers, engine, report).run()
    assert engine.batches > len(moved)
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written)
    assert report.complete


def test_slots_that_move_during_a_scan(
    cluster: RunningCluster, make: EngineClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a scan of many pages
    monkeypatch.setattr(cleanup_tasks.cluster, "FAR", replace(FAR, scan_count=10))
    ids = [b"worker-%d" % number for number in range(40)]
    written = write_coordinators(cluster, ids)
    slots = iter([key_slot(keys.ACK + id_ + b":signal-1") for id_ in ids])

    def move_some(what: str, _done: int, _total: int) -> None:
        if what == "collecting":
            for _ in range(2):
                slot = next(slots, None)
                if slot is not None:
                    cluster.move_slot(slot)

    report = new_report(make.name)
    with cluster.connect() as servers:
        Sweep(servers, servers.engine(make), report, move_some).run()
    assert next(slots, None) is None
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written)


def test_a_slot_on_its_way(
    cluster: RunningCluster, make: EngineClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are at the new primary already, which serves them to ASKING clients alone."""
    ids = [b"worker-%d" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    slots = [key_slot(keys.signal(ids[3])), key_slot(keys.heartbeat(ids[4]))]
    pending: list[Callable[[], None]] = []
    report = new_report(make.name)
    waits: list[int] = []
    follow = Cluster.follow

    def arrive(servers: Cluster, attempt: int, redirections: Iterable[Exception]) -> None:
        waits.append(attempt)
        while pending:
            pending.pop()()
        follow(servers, attempt, redirections)

    monkeypatch.setattr(Cluster, "follow", arrive)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.before = lambda _: pending.extend(cluster.move_slot(slot, finish=False) for slot in slots)
        Sweep(servers, engine, report).run()
    # Single keys were found where they are; the heartbeat's step waited for its slot to arrive.
    assert waits == [0]
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written)
    assert report.complete


def test_a_slot_that_never_arrives(
    cluster: RunningCluster, make: EngineClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup_tasks.cluster, "PAUSE_S", 0.001)
    ids = [b"worker-%d" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    pending: list[Callable[[], None]] = []
    report = new_report(make.name)
    slot = key_slot(keys.heartbeat(ids[4]))
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.before = lambda _: pending.append(cluster.move_slot(slot, finish=False))
        with pytest.raises(TryAgainError):
            Sweep(servers, engine, report).run()
    assert not report.complete
    assert report.cleanup_errors == 1
    assert report.reaped == 19
    assert cluster.keys() == {keys.heartbeat(ids[4])}
    # The next sweep takes the rest.
    pending.pop()()
    assert report.keys_deleted + sweep(cluster, make).keys_deleted == len(written)
    assert cluster.keys() == set()


@pytest.fixture
def own_cluster() -> Iterator[RunningCluster]:
    """A cluster to be broken."""
    with running_cluster() as cluster:
        yield cluster


def test_a_primary_that_is_killed_in_the_middle(own_cluster: RunningCluster, make: EngineClass) -> None:
    cluster = own_cluster
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(1_000)])
    active = write_coordinators(cluster, [b"active-%d" % number for number in range(50)], "active")

    def kill(number: int) -> None:
        if number == 3:
            cluster.kill(1)

    # When a primary dies before the fourth batch
    report = new_report(make.name)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.before = kill
        with pytest.raises((ConnectionError, ClusterDownError)) as failure:
            Sweep(servers, engine, report).run()
    # Then the others are cleaned all the same, and it is no clean success
    assert is_transient(failure.value)
    assert not report.complete
    assert report.cleanup_errors > 0
    assert engine.batches > 5
    # What is left can be found again: a coordinator with keys left has its heartbeat.
    cluster.replace_primary(1)
    left = cluster.keys() - active
    assert len(left) == len(written) - report.keys_deleted
    for key in left:
        assert keys.heartbeat(key.split(b":")[2]) in left
    # The next sweep takes the rest, and nothing is counted twice.
    again = sweep(cluster, make)
    assert again.complete
    assert report.keys_deleted + again.keys_deleted == len(written)
    assert cluster.keys() == active


def test_a_primary_that_is_killed_during_the_scan(
    own_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be seen must stay to be found: no heartbeat goes."""
    monkeypatch.setattr(cleanup_tasks.cluster, "FAR", replace(FAR, scan_count=10))
    cluster = own_cluster
    ids = [b"worker-%d" % number for number in range(200)]
    written = write_coordinators(cluster, ids)

    def kill(what: str, _done: int, _total: int) -> None:
        if what == "collecting" and cluster.servers[1] in cluster.alive:
            cluster.kill(1)
            monkeypatch.undo()

    report = new_report(LuaEngine.name)
    with cluster.connect() as servers, pytest.raises((ConnectionError, ClusterDownError)):
        Sweep(servers, servers.engine(LuaEngine), report, kill).run()
    assert report.keys_deleted > 0
    assert report.reaped == 0
    cluster.replace_primary(1)
    assert {keys.heartbeat(id_) for id_ in ids} <= cluster.keys()
    again = sweep(cluster, LuaEngine)
    assert report.keys_deleted + again.keys_deleted == len(written)
    assert cluster.keys() == set()


def test_the_task_tries_again_where_a_primary_is_lost(
    own_cluster: RunningCluster, server: Server, tmp_path: Path
) -> None:
    cluster = own_cluster
    ids = [b"worker-%d" % number for number in range(50)]
    written = write_coordinators(cluster, ids)
    active = write_coordinators(cluster, [b"active"], "active")
    lock_port = cluster.owner(key_slot(keys.LOCK)).port
    victim = next(number for number in range(3) if cluster.servers[number].port != lock_port)
    environment = {
        "COORDINATION_REDIS_URL": cluster.url,
        "CELERY_BROKER_URL": f"{server.url}/1",
        "CELERY_RESULT_BACKEND": f"{server.url}/2",
        "CLEANUP_LOG_FILE": "",
    }
    with (
        Stack(environment, tmp_path) as stack,
        Celery(
            broker=environment["CELERY_BROKER_URL"],
            backend=environment["CELERY_RESULT_BACKEND"],
            set_as_current=False,
        ) as app,
    ):
        stack.start_worker()
        # When the task meets a cluster that has lost a primary, and its replica takes over a little later
        cluster.kill(victim)
        result = app.send_task("cleanup_tasks.cleanup", queue="cleanup")
        stack.wait_for_line("worker", "Cleanup is tried again in 2 s")
        cluster.replace_primary(victim)
        metrics = result.get(timeout=30)
    # Then nothing is left, everything is counted once, and it doesn't pass for a clean success
    assert cluster.keys() == active
    assert metrics["keysDeleted"] == len(written)
    assert metrics["cleanupErrors"] >= 1
    assert metrics["complete"] is False
    assert metrics["implementation"] == "lua"


def test_the_smallest_user_of_a_cluster(cluster: RunningCluster, make: EngineClass) -> None:
    write_coordinators(cluster, [b"worker-%d" % number for number in range(5)])
    rules = [*acl.RULES.split(), *(f"+{command}" for command in acl.CLUSTER)]
    for server in cluster.servers:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "cleanup", "reset", "on", ">secret", *rules)
    url = SecretStr(cluster.url.replace("://", "://cleanup:secret@"))
    reason = None if make is LuaEngine else "requested"
    report = Run(load_settings(coordination_redis_url=url), Options(), fallback_reason=reason).sweep()
    assert report.complete
    assert report.implementation == make.name
    assert report.keys_deleted == 30
    assert cluster.keys() == set()
