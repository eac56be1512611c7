"""Random small worlds on a cluster: what is promised there, whatever happens between any two requests."""

import contextlib
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot
from redis.exceptions import RedisError

from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from tests.support.clusters import RunningCluster
from tests.support.sweeping import NOTES, clean, new_report
from tests.support.worlds import (
    EVENTS,
    FAULTS,
    Killed,
    World,
    before_request,
    faulty_request,
    happen_to,
    may_own,
    worlds,
)

#: Which request of a sweep; such a world takes about sixty.
MOMENT = st.integers(0, 69)
#: Keys in a batch: the cluster's, or so few that such a world is many.
BATCH_KEYS = st.sampled_from([None, 1, 2, 4])

random_worlds = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(cluster: RunningCluster, world: World, now_ms: int) -> None:
    """Nothing but this world."""
    cluster.clear()
    cluster.set(world.values(now_ms))
    if sightings := world.sightings(now_ms):
        with cluster.owner(key_slot(keys.SIGHTINGS)).client() as client:
            client.hset(keys.SIGHTINGS, mapping=sightings)


def swept(cluster: RunningCluster, name: EngineName, batch_keys: int | None = None) -> Report:
    """The report of a sweep."""
    report = new_report(name)
    with cluster.connect() as servers:
        if batch_keys is not None:
            servers.limits = replace(servers.limits, batch_keys=batch_keys, in_flight=0)
        clean(servers, engine_for(servers, name), report, orphans="reap")
    return report


def related_keys(cluster: RunningCluster) -> set[bytes]:
    """All keys but the sightings."""
    return cluster.keys() - NOTES


@random_worlds
@given(world=worlds(), batch_keys=BATCH_KEYS, moment=MOMENT, what=st.sampled_from(EVENTS), data=st.data())
def test_whoever_gives_a_sign_of_life(
    cluster: RunningCluster,
    name: EngineName,
    world: World,
    batch_keys: int | None,
    moment: int,
    what: str,
    data: st.DataObject,
) -> None:
    """What shares a slot with a heartbeat stays with it; a heartbeat that was written anew stays."""
    write(cluster, world, cluster.now_ms())
    coordinator = data.draw(st.sampled_from(sorted(world.coordinators)))
    beat = keys.heartbeat(coordinator)
    had: set[bytes] = set()

    def happen() -> None:
        held = {key for key in related_keys(cluster) if may_own(coordinator, key)}
        had.update(key for key in held if key_slot(key) == key_slot(beat))
        key = keys.activity(coordinator) if what == "works" else beat
        with cluster.owner(key_slot(key)).client() as client:
            happen_to(client, coordinator, what)

    with before_request(moment, happen) as happened:
        report = swept(cluster, name, batch_keys)
    assert report.complete
    if happened() and what in ("beats", "restarts"):
        assert had | {beat} <= related_keys(cluster)


@random_worlds
@given(world=worlds(), batch_keys=BATCH_KEYS, moment=MOMENT, fault=st.sampled_from(sorted(FAULTS)))
def test_a_sweep_that_is_cut_off_leaves_nothing_that_the_next_one_does_not_find(
    cluster: RunningCluster,
    name: EngineName,
    world: World,
    batch_keys: int | None,
    moment: int,
    fault: str,
) -> None:
    now_ms = cluster.now_ms()
    write(cluster, world, now_ms)
    before = related_keys(cluster)
    whole = swept(cluster, name)
    left = related_keys(cluster)
    assert (whole.keys_deleted, whole.complete) == (len(before) - len(left), True)
    swept(cluster, name)  # what named a party that may own another record is gone by now
    left = related_keys(cluster)
    write(cluster, world, now_ms)
    with faulty_request(moment, fault), contextlib.suppress(RedisError, Killed):
        swept(cluster, name, batch_keys)
    swept(cluster, name)
    swept(cluster, name)
    assert related_keys(cluster) == left
