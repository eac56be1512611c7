"""Slots that move from one primary to another in the middle of a sweep."""

from collections.abc import Callable, Iterable

import pytest
from redis.crc import key_slot
from redis.exceptions import MovedError, TryAgainError

import cleanup_tasks.servers.cluster
from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.cluster import Cluster
from tests.support.clusters import Interrupted, RunningCluster, sweep, write_coordinators
from tests.support.sweeping import clean, new_report


def test_a_slot_that_moves_between_batches(cluster: RunningCluster, name: EngineName) -> None:
    ids = [b"worker-%d" % number for number in range(400)]
    written = write_coordinators(cluster, ids)
    moved = [keys.heartbeat(ids[-1]), keys.signal(ids[-2]), keys.activity(ids[-3])]
    report = new_report(name)
    with cluster.connect(batch_keys=500) as servers:
        engine = Interrupted.on(servers, name)

        def move(number: int) -> None:
            if number < len(moved):
                cluster.move_slot(key_slot(moved[number]))

        engine.before = move
        clean(servers, engine, report)
    assert engine.batches > len(moved)
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written)
    assert report.complete


def test_slots_that_move_during_a_scan(cluster: RunningCluster, name: EngineName) -> None:
    ids = [b"worker-%d" % number for number in range(40)]
    written = write_coordinators(cluster, ids)
    slots = iter([key_slot(keys.ACK + id_ + b":signal-1") for id_ in ids])

    def move_some(what: str, _done: int, _total: int) -> None:
        if what == "collecting":
            for _ in range(2):
                slot = next(slots, None)
                if slot is not None:
                    cluster.move_slot(slot)

    report = new_report(name)
    # Given a scan of many pages
    with cluster.connect(scan_count=10) as servers:
        clean(servers, engine_for(servers, name), report, progress=move_some)
    assert next(slots, None) is None
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written)


def test_a_slot_on_its_way(
    cluster: RunningCluster, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are at the new primary already, which serves them to ASKING clients alone."""
    ids = [b"worker-%d" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    slots = [key_slot(keys.signal(ids[3])), key_slot(keys.heartbeat(ids[4]))]
    pending: list[Callable[[], None]] = []
    report = new_report(name)
    waits: list[int] = []
    follow = Cluster.follow

    def arrive(servers: Cluster, attempt: int, redirections: Iterable[Exception]) -> None:
        waits.append(attempt)
        while pending:
            pending.pop()()
        follow(servers, attempt, redirections)

    monkeypatch.setattr(Cluster, "follow", arrive)
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.before = lambda _: pending.extend(cluster.move_slot(slot, finish=False) for slot in slots)
        clean(servers, engine, report)
    # Single keys were found where they are; the heartbeat's step waited for its slot to arrive.
    assert waits == [0]
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written)
    assert report.complete


def test_a_slot_that_never_arrives(
    cluster: RunningCluster, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup_tasks.servers.cluster, "PAUSE_S", 0.001)
    ids = [b"worker-%d" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    pending: list[Callable[[], None]] = []
    report = new_report(name)
    slot = key_slot(keys.heartbeat(ids[4]))
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.before = lambda _: pending.append(cluster.move_slot(slot, finish=False))
        with pytest.raises(TryAgainError):
            clean(servers, engine, report)
    assert not report.complete
    assert report.cleanup_errors == 1
    assert report.reaped == 19
    assert cluster.keys() == {keys.heartbeat(ids[4])}
    # The next sweep takes the rest.
    pending.pop()()
    assert report.keys_deleted + sweep(cluster, name).keys_deleted == len(written)
    assert cluster.keys() == set()


def test_who_moved_a_slot_knows_best_where_it_is(cluster: RunningCluster) -> None:
    """The node that is asked for all slots may not have heard of it yet."""
    with cluster.connect() as servers:
        here = servers.owner(5)
        servers.follow(0, [MovedError("5 127.0.0.1:7777")])
        assert servers.owner(5) == ("127.0.0.1", 7777)
        assert servers.owner(6) == here
