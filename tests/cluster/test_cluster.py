"""A real cluster: everything that holds on one server, and what is different there."""

import itertools
from dataclasses import replace

import pytest
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.rules import keys
from cleanup_tasks.servers import acl
from cleanup_tasks.servers.errors import ScriptingRefused
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.clusters import PRIMARIES
from demo.dataset import keys_of
from tests.support.cases import OWNERSHIP, ownership_values
from tests.support.clusters import Interrupted, RunningCluster, calls, renew, sweep, write_coordinators
from tests.support.sweeping import clean, new_report


def test_ownership(cluster: RunningCluster, name: EngineName) -> None:
    """All rows of the table; a dry run chooses the same keys and takes none."""
    wrong = []
    for row in OWNERSHIP:
        cluster.clear()
        values, gone = ownership_values(row, cluster.now_ms())
        cluster.set(values)
        announced = sweep(cluster, name, dry_run=True)
        untouched = cluster.keys() == set(values)
        report = sweep(cluster, name)
        left = cluster.keys()
        counted = (announced.keys_deleted, report.keys_deleted) == (len(gone), len(gone))
        if not (untouched and left == set(values) - gone and counted and report.complete):
            wrong.append((row["name"], left ^ (set(values) - gone), announced, report))
    assert wrong == []


def test_acceptance_data(cluster: RunningCluster, name: EngineName) -> None:
    write_coordinators(cluster, [b"test-coordinator-%d" % number for number in range(9_900)])
    active = write_coordinators(
        cluster, [b"active-coordinator-%d" % number for number in range(100)], "active"
    )
    report = sweep(cluster, name)
    assert report.keys_deleted == 59_400
    assert report.complete
    assert cluster.keys() == active
    assert len(active) == 600


def message(now_ms: int, sender: bytes, receiver: bytes, iteration: int = 1) -> bytes:
    """The record of a message between two, sent longer ago than the threshold."""
    return keys.IDEMPOTENCY + b"%s:%s:completion:%d:%d" % (sender, receiver, iteration, now_ms - 700_000)


def test_a_hash_tag_gives_all_or_nothing(cluster: RunningCluster, name: EngineName) -> None:
    # Given coordinators with all keys in one slot, more than one step takes, and messages between them
    ids = [b"{fleet}-%d" % number for number in range(300)]
    now_ms = cluster.now_ms()
    records = [message(now_ms, *pair) for pair in itertools.pairwise(ids)]
    cluster.set(dict.fromkeys(records, "1"))
    written = write_coordinators(cluster, ids) | set(records)
    report = new_report(name)
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        # When one revives after the last moment at which a key of another slot would have gone
        engine.between = lambda: renew(cluster, ids[7])
        clean(servers, engine, report)
    # Then it has lost nothing, and the others everything
    kept = {*keys_of(ids[7]), records[6], records[7]}
    assert cluster.keys() == kept
    assert report.keys_deleted == len(written) - len(kept)
    assert report.revived_coordinators == 1
    assert report.complete
    # No step is long: each primary was asked once whether it permits scripts, the rest are steps.
    assert name == "python" or calls(cluster) - PRIMARIES > 1


@pytest.mark.parametrize("family", [keys.HEARTBEAT, keys.ACTIVITY])
@pytest.mark.parametrize("owner", [b"a", b"b"])
def test_a_record_in_the_slot_of_its_owners_key(
    cluster: RunningCluster, name: EngineName, family: bytes, owner: bytes
) -> None:
    """The step of that slot comes after other keys of its owners went."""
    written = write_coordinators(cluster, [b"a", b"b"])
    now_ms, slot = cluster.now_ms(), key_slot(family + owner)
    candidates = (message(now_ms, b"a", b"b", iteration) for iteration in range(1_000_000))
    record = next(candidate for candidate in candidates if key_slot(candidate) == slot)
    cluster.set({record: "1"})
    report = sweep(cluster, name)
    assert cluster.keys() == set()
    assert report.keys_deleted == len(written) + 1


def test_a_fresh_look_before_keys_in_other_slots_go(cluster: RunningCluster, name: EngineName) -> None:
    ids = [b"worker-%d" % number for number in range(20)]
    written = write_coordinators(cluster, ids)
    report = new_report(name)
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.before = lambda _number: renew(cluster, ids[7])
        clean(servers, engine, report)
    assert cluster.keys() == set(keys_of(ids[7]))
    assert report.keys_deleted == len(written) - 6
    assert report.revived_coordinators == 1


def test_the_heartbeat_goes_by_compare_and_delete(cluster: RunningCluster, name: EngineName) -> None:
    ids = [b"worker-%d" % number for number in range(20)]
    write_coordinators(cluster, ids)
    report = new_report(name)
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.between = lambda: renew(cluster, ids[7])
        clean(servers, engine, report)
    assert cluster.keys() == {keys.heartbeat(ids[7])}
    assert report.keys_deleted == 20 * 6 - 1
    assert report.revived_coordinators == 1


def test_a_party_that_appears_late_keeps_the_record(cluster: RunningCluster, name: EngineName) -> None:
    record = message(cluster.now_ms(), b"worker", b"late")
    written = write_coordinators(cluster, [b"worker"])
    cluster.set({record: "1"})
    report = new_report(name)
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.before = lambda _number: renew(cluster, b"late")
        clean(servers, engine, report)
    assert cluster.keys() == {record, keys.heartbeat(b"late")}
    assert report.keys_deleted == len(written)


def add_user(cluster: RunningCluster, lacking: str = "", servers: slice = slice(None)) -> None:
    """A user with the smallest rights of a cluster, on some servers with one command fewer."""
    rules = [*acl.rules().split(), *(f"+{command}" for command in acl.CLUSTER)]
    for server in cluster.servers:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "cleanup", "reset", "on", ">secret", *rules)
    for server in cluster.servers[servers] if lacking else []:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "cleanup", f"-{lacking}")


def sweep_as_user(cluster: RunningCluster, name: EngineName) -> Sweep:
    """A whole sweep by that user, not begun."""
    url = cluster.url.replace("://", "://cleanup:secret@")
    return Sweep(Options(address=parse(url), engine=name, owner="me", force=True))


def test_the_smallest_user_of_a_cluster(cluster: RunningCluster, name: EngineName) -> None:
    write_coordinators(cluster, [b"worker-%d" % number for number in range(5)])
    add_user(cluster)
    report = sweep_as_user(cluster, name).run()
    assert report.complete
    assert report.implementation == name
    assert report.keys_deleted == 30
    assert cluster.keys() == set()


@pytest.mark.parametrize(
    ("name", "lacking", "error"),
    [
        ("lua", "evalsha", ScriptingRefused),
        ("lua", "script", ScriptingRefused),
        ("python", "multi", NoPermissionError),
    ],
)
def test_what_one_primary_refuses_is_known_before_anything_goes(
    cluster: RunningCluster, name: EngineName, lacking: str, error: type[Exception]
) -> None:
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(50)])
    add_user(cluster, lacking, slice(2, 3))
    refused = sweep_as_user(cluster, name)
    with pytest.raises(error):
        refused.run()
    assert refused.report.keys_deleted == 0
    assert cluster.keys() == written


@pytest.mark.parametrize("lacking", ["evalsha", "script"])
@pytest.mark.parametrize("where", [slice(None), slice(2, 3)], ids=["everywhere", "on one primary"])
def test_without_scripting_the_fallback_is_complete(
    cluster: RunningCluster, lacking: str, where: slice
) -> None:
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(50)])
    add_user(cluster, lacking, where)
    url = cluster.url.replace("://", "://cleanup:secret@")
    report = sweep_or_fall_back(Options(address=parse(url), force=True)).report
    assert (report.implementation, report.complete, report.cleanup_errors) == ("python", True, 0)
    assert report.keys_deleted == len(written)
    assert cluster.keys() == set()


def test_what_went_before_a_primary_refused_is_counted(cluster: RunningCluster, name: EngineName) -> None:
    ids = [b"worker-%d" % number for number in range(50)]
    written = write_coordinators(cluster, ids)
    add_user(cluster, "unlink", slice(2, 3))
    refused = sweep_as_user(cluster, name)
    with pytest.raises((NoPermissionError, ScriptingRefused)):
        refused.run()
    left = cluster.keys() - {keys.LOCK}
    assert 0 < refused.report.keys_deleted == len(written) - len(left)
    assert refused.report.cleanup_errors > 0
    assert not refused.report.complete
    # What is left can be found again: a coordinator with keys left has its heartbeat.
    assert {keys.heartbeat(id_) for id_ in ids if any(id_ in key.split(b":") for key in left)} <= left


def test_where_nobody_seems_to_be_alive_nothing_goes(cluster: RunningCluster, name: EngineName) -> None:
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(50)])
    options = Options(address=parse(cluster.url), engine=name, restart_grace_s=0)
    assert Sweep(options).run().held == "nobody beats, and 50 look dead"
    assert cluster.keys() == written | {keys.HOLD}
    assert Sweep(replace(options, force=True)).run().complete
    assert cluster.keys() == set()


def test_a_hold_outlasts_the_primary_with_its_note(own_cluster: RunningCluster) -> None:
    """Those who beat again have their time, for the process remembers what it has noted."""
    cluster, note = own_cluster, own_cluster.number_of(keys.HOLD)
    ids = [b"worker-%d" % number for number in range(90)]
    write_coordinators(cluster, ids)
    options = Options(address=parse(cluster.url), engine="python", restart_grace_s=0)
    assert Sweep(options).run().held == "nobody beats, and 90 look dead"
    first = next(id_ for id_ in ids if cluster.number_of(keys.heartbeat(id_)) != note)
    write_coordinators(cluster, [first], "active")
    why = "somebody beats again, and others may follow"
    assert Sweep(options).run().held == why
    cluster.kill(note)
    assert Sweep(options).run().held == why


def test_a_primary_that_came_up_with_data_is_a_reason_to_wait(own_cluster: RunningCluster) -> None:
    """Here one that has taken over: it has loaded what its primary had."""
    cluster = own_cluster
    write_coordinators(cluster, [b"worker"])
    cluster.kill(0)
    cluster.replace_primary(0)
    report = Sweep(Options(address=parse(cluster.url), engine="python", restart_grace_s=3_600)).run()
    assert "so it is left alone for 3600 s" in str(report.skipped)
