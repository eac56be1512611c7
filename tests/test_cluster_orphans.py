"""Orphans on a cluster: two sightings, a fresh look, and no verdict while a primary is out of sight."""

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError

from cleanup_tasks import keys
from cleanup_tasks.report import Report
from cleanup_tasks.sweep import Sweep
from demo.dataset import KEYS_EACH
from tests.clusters import RunningCluster, running_cluster
from tests.sweeping import THRESHOLD_S, new_report
from tests.test_cluster import EngineClass, Interrupted, cluster, make, renew, shared_cluster
from tests.test_cluster import write_coordinators as write_all_six

__all__ = ["cluster", "make", "shared_cluster"]  # fixtures


def reap(cluster: RunningCluster, make: EngineClass, *, dry_run: bool = False) -> Report:
    with cluster.connect() as servers:
        report = new_report(make.name, dry_run=dry_run)
        Sweep(servers, servers.engine(make), report, orphans="reap").run()
    return report


def write_orphans(cluster: RunningCluster, coordinators: list[bytes]) -> set[bytes]:
    """All keys but the heartbeats; returns them."""
    written = write_all_six(cluster, coordinators)
    beats = set(map(keys.heartbeat, coordinators))
    for beat in beats:
        with cluster.owner(key_slot(beat)).client() as client:
            client.delete(beat)
    return written - beats


def age_notes(cluster: RunningCluster) -> None:
    """As if the orphans had been noted longer ago than the threshold."""
    with cluster.owner(key_slot(keys.SIGHTINGS)).client() as client:
        for id_, seen_ms in client.hgetall(keys.SIGHTINGS).items():
            client.hset(keys.SIGHTINGS, id_, int(seen_ms) - (THRESHOLD_S + 1) * 1000)


def test_reaped_at_the_second_sighting(cluster: RunningCluster, make: EngineClass) -> None:
    active = write_all_six(cluster, [b"active"], "active")
    orphans = write_orphans(cluster, [b"o%d" % number for number in range(300)])
    first = reap(cluster, make)
    assert (first.orphaned_coordinators_found, first.keys_deleted) == (300, 0)
    assert cluster.keys() == active | orphans | {keys.SIGHTINGS}
    age_notes(cluster)
    announced = reap(cluster, make, dry_run=True)
    assert cluster.keys() == active | orphans | {keys.SIGHTINGS}
    report = reap(cluster, make)
    for seen in (announced, report):
        assert (seen.orphaned_coordinators_reaped, seen.orphan_keys_deleted) == (300, 300 * (KEYS_EACH - 1))
        assert seen.complete
    assert cluster.keys() == active


def test_one_that_beats_again_loses_nothing(cluster: RunningCluster, make: EngineClass) -> None:
    orphans = write_orphans(cluster, [b"a", b"b"])
    reap(cluster, make)
    age_notes(cluster)
    with cluster.connect() as servers:
        engine = Interrupted(servers, make)
        engine.before = lambda _number: renew(cluster, b"a")
        report = new_report(make.name)
        Sweep(servers, engine, report, orphans="reap").run()
    assert report.orphaned_coordinators_reaped == 1
    left = {key for key in orphans if b"a" in key.split(b":")[2:]}
    assert cluster.keys() - {keys.SIGHTINGS} == left | {keys.heartbeat(b"a")}


def test_nobody_is_an_orphan_while_a_primary_is_out_of_sight(make: EngineClass) -> None:
    """The heartbeat of one alive may lie on the lost primary, and its other keys elsewhere."""
    with running_cluster() as cluster:
        write_all_six(cluster, [b"w%d" % number for number in range(60)], "active")
        notes = cluster.owner(key_slot(keys.SIGHTINGS)).port
        victim = next(number for number in range(3) if cluster.servers[number].port != notes)
        cluster.kill(victim)
        before = cluster.keys()
        report = new_report(make.name)
        with cluster.connect() as servers, pytest.raises(RedisError):
            Sweep(servers, servers.engine(make), report, orphans="reap").run()
        assert (report.orphaned_coordinators_found, report.keys_deleted, report.complete) == (0, 0, False)
        assert cluster.keys() == before
