"""Orphans on a cluster: two sightings, a fresh look, and no verdict while a primary is out of sight."""

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError

from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.rules import keys
from demo.clusters import PRIMARIES
from demo.dataset import KEYS_EACH
from tests.support.clusters import Interrupted, RunningCluster, renew, sweep, write_coordinators
from tests.support.sweeping import NOTES, THRESHOLD_S, clean, new_report


def write_orphans(cluster: RunningCluster, coordinators: list[bytes]) -> set[bytes]:
    """All keys but the heartbeats; returns them."""
    written = write_coordinators(cluster, coordinators)
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


def test_reaped_at_the_second_sighting(cluster: RunningCluster, name: EngineName) -> None:
    active = write_coordinators(cluster, [b"active"], "active")
    orphans = write_orphans(cluster, [b"o%d" % number for number in range(300)])
    first = sweep(cluster, name, orphans="reap")
    assert (first.orphaned_coordinators_found, first.keys_deleted) == (300, 0)
    assert cluster.keys() == active | orphans | NOTES
    age_notes(cluster)
    announced = sweep(cluster, name, orphans="reap", dry_run=True)
    assert cluster.keys() == active | orphans | NOTES
    report = sweep(cluster, name, orphans="reap")
    for seen in (announced, report):
        assert (seen.orphaned_coordinators_reaped, seen.orphan_keys_deleted) == (300, 300 * (KEYS_EACH - 1))
        assert seen.complete
    assert cluster.keys() == active


def test_one_that_beats_again_loses_nothing(cluster: RunningCluster, name: EngineName) -> None:
    orphans = write_orphans(cluster, [b"a", b"b"])
    sweep(cluster, name, orphans="reap")
    age_notes(cluster)
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.before = lambda _number: renew(cluster, b"a")
        report = new_report(name)
        clean(servers, engine, report, orphans="reap")
    assert report.orphaned_coordinators_reaped == 1
    left = {key for key in orphans if b"a" in key.split(b":")[2:]}
    assert cluster.keys() - NOTES == left | {keys.heartbeat(b"a")}


def test_nobody_is_an_orphan_while_a_primary_is_out_of_sight(
    own_cluster: RunningCluster, name: EngineName
) -> None:
    """The heartbeat of one alive may lie on the lost primary, and its other keys elsewhere."""
    cluster = own_cluster
    write_coordinators(cluster, [b"w%d" % number for number in range(60)], "active")
    cluster.kill(next(number for number in range(PRIMARIES) if number != cluster.number_of(keys.SIGHTINGS)))
    before = cluster.keys()
    report = new_report(name)
    with cluster.connect() as servers, pytest.raises(RedisError):
        clean(servers, engine_for(servers, name), report, orphans="reap")
    assert (report.orphaned_coordinators_found, report.keys_deleted, report.complete) == (0, 0, False)
    assert cluster.keys() == before
