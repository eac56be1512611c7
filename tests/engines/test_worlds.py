"""Random small worlds: the promises hold whatever happens between any two requests of a sweep."""

import contextlib
from itertools import product

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError

from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import LOW_LATENCY, Limits
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.servers.url import Address
from cleanup_tasks.sweep.explanation import Explanation
from cleanup_tasks.sweep.options import Options, OrphansMode
from demo.servers import Server
from tests.support.sweeping import NOTES, all_keys, clean, digest, new_report
from tests.support.worlds import (
    EVENTS,
    FAULTS,
    IDS,
    LIMITS,
    Killed,
    World,
    before_request,
    faulty_request,
    happen_to,
    may_own,
    worlds,
)

ENGINES: dict[str, type[LuaEngine] | type[PythonEngine]] = {"lua": LuaEngine, "python": PythonEngine}
BOTH = pytest.mark.parametrize("by", ["lua", "python"])
#: Which request of a sweep; such a world takes about twenty, and more in small batches.
MOMENT = st.integers(0, 32)
SOME_LIMITS = st.sampled_from(LIMITS)

random_worlds = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(client: Redis, world: World, now_ms: int | None = None) -> int:
    """Nothing but this world; returns the time at which it was written."""
    client.flushall()
    now_ms = now_ms or server_time_ms(client)
    if values := world.values(now_ms):
        client.mset(values)
    if sightings := world.sightings(now_ms):
        client.hset(keys.SIGHTINGS, mapping=sightings)
    return now_ms


def swept(client: Redis, by: str, limits: Limits = LOW_LATENCY, *, dry_run: bool = False) -> Report:
    """The report of a sweep that has come to its end, or was cut off."""
    report = new_report(ENGINES[by].name, dry_run=dry_run)
    sweep_into(report, client, by, limits)
    return report


def sweep_into(report: Report, client: Redis, by: str, limits: Limits) -> None:
    """Sweep; the report says what was done, also where that raises something."""
    with SingleServer(client) as servers:
        servers.limits = limits
        clean(servers, ENGINES[by](client), report, orphans="reap")


def related_keys(client: Redis) -> set[bytes]:
    """All keys but the sightings."""
    return all_keys(client) - NOTES


@BOTH
@random_worlds
@given(
    world=worlds(),
    limits=SOME_LIMITS,
    moment=MOMENT,
    what=st.sampled_from(EVENTS),
    who=st.integers(0, len(IDS) - 1),
)
@example(
    # a living one without a heartbeat may be the sender of a message that others seem to have exchanged
    world=World(
        {b"w": "orphan", b"w:1:x": "sighted orphan"},
        frozenset({b"blocking:idempotency:w:1:x:w:1:x:done:3:$OLD"}),
    ),
    limits=LOW_LATENCY,
    moment=0,
    what="works",
    who=0,
)
@example(
    # or the receiver of one, where both parties together are somebody else's id
    world=World(
        {b"a": "orphan", b"1": "orphan", b"a:1": "sighted orphan"},
        frozenset({b"blocking:idempotency:a:1:done:3:$OLD"}),
    ),
    limits=LOW_LATENCY,
    moment=0,
    what="works",
    who=0,
)
def test_whoever_gives_a_sign_of_life_keeps_what_it_has(
    client: Redis, by: str, world: World, limits: Limits, moment: int, what: str, who: int
) -> None:
    write(client, world)
    coordinator = sorted(world.coordinators)[who % len(world.coordinators)]
    is_known = moment == 0 or world.shows(coordinator)
    had: set[bytes] = set()

    def happen() -> None:
        had.update(key for key in related_keys(client) if may_own(coordinator, key, is_known=is_known))
        happen_to(client, coordinator, what)

    with before_request(moment, happen) as happened:
        report = swept(client, by, limits)
    assert report.complete
    if happened() and what != "dies":
        event(f"{what}, of {min(len(had), 3)} keys or more")
        assert had - related_keys(client) <= {keys.heartbeat(coordinator)}
        assert client.exists(keys.heartbeat(coordinator), keys.activity(coordinator))


@BOTH
@random_worlds
@given(world=worlds(), limits=SOME_LIMITS, moment=MOMENT, fault=st.sampled_from(sorted(FAULTS)))
def test_a_sweep_that_is_cut_off_leaves_nothing_that_the_next_one_does_not_find(
    client: Redis, by: str, world: World, limits: Limits, moment: int, fault: str
) -> None:
    # Given what a sweep leaves that comes to its end
    now_ms = write(client, world)
    before = related_keys(client)
    whole = swept(client, by)
    left = related_keys(client)
    assert (whole.keys_deleted, whole.complete) == (len(before) - len(left), True)
    swept(client, by)  # what named a party that may own another record is gone by now
    left_later = related_keys(client)
    # When one loses a request or a reply, or is killed, at any moment
    write(client, world, now_ms)
    report = new_report(ENGINES[by].name)
    with faulty_request(moment, fault) as happened, contextlib.suppress(ConnectionError, Killed):
        sweep_into(report, client, by, limits)
    # Then it says no more than it did, and that it didn't do all
    gone = len(before) - len(related_keys(client))
    assert report.keys_deleted <= gone
    assert report.keys_deleted == gone or report.cleanup_errors
    assert not report.complete or related_keys(client) == left
    # and whatever became of it, the next ones do the rest
    swept(client, by)
    swept(client, by)
    assert related_keys(client) == left_later
    event(f"{fault}: {happened()}")


@BOTH
@random_worlds
@given(world=worlds(), limits=SOME_LIMITS)
def test_a_dry_run_writes_nothing_and_says_what_would_go(
    client: Redis, by: str, world: World, limits: Limits
) -> None:
    write(client, world)
    before = digest(client)
    announced = swept(client, by, limits, dry_run=True)
    assert digest(client) == before
    done = swept(client, by, limits)
    assert announced.keys_deleted == done.keys_deleted
    assert announced.orphan_keys_deleted == done.orphan_keys_deleted
    assert announced.reaped == done.reaped


@random_worlds
@given(world=worlds())
def test_both_engines_take_the_same_however_small_their_batches_are(client: Redis, world: World) -> None:
    left = []
    now_ms = server_time_ms(client)
    for by, limits in product(ENGINES, LIMITS):
        write(client, world, now_ms)
        swept(client, by, limits)
        left.append(related_keys(client))
    assert left == [left[0]] * len(left)


@BOTH
@random_worlds
@given(world=worlds(), limits=SOME_LIMITS, moment=MOMENT, other=st.sampled_from(sorted(ENGINES)))
def test_two_sweeps_at_once_are_harmless(
    server: Server, client: Redis, by: str, world: World, limits: Limits, moment: int, other: str
) -> None:
    write(client, world)
    now = related_keys(client)
    reports = [swept(client, by)]
    left = len(now) - len(related_keys(client))
    write(client, world)
    deleted = 0

    def sweep_too() -> None:
        nonlocal deleted
        with server.client() as second:
            deleted = swept(second, other, limits).keys_deleted

    with before_request(moment, sweep_too):
        reports.append(swept(client, by, limits))
    assert reports[0].keys_deleted == left
    assert reports[1].keys_deleted + deleted == left


@pytest.mark.parametrize("orphans", ["report", "reap"])
@random_worlds
@given(world=worlds())
def test_an_explanation_names_what_a_sweep_deletes(client: Redis, orphans: OrphansMode, world: World) -> None:
    now_ms = write(client, world)
    before = digest(client)
    with SingleServer(client) as servers:
        explained = Explanation(servers, Options(address=Address(), orphans=orphans)).explain()
    assert digest(client) == before
    announced = {key.name for each in explained for key in each.keys if key.goes}
    assert related_keys(client) >= announced
    # what it says of a key, it says under each of the owners
    said: dict[bytes, set[bool]] = {}
    for each in explained:
        for key in each.keys:
            said.setdefault(key.name, set()).add(key.goes)
            assert key.goes or key.kept_by
    assert {len(verdicts) for verdicts in said.values()} <= {1}
    # the ids that have a heartbeat are as they were made
    made = {id_: kind for id_, kind in world.coordinators.items() if "orphan" not in kind}
    assert {each.id: each.verdict for each in explained if each.id in made}.keys() == made.keys()
    # and a sweep does what was said
    write(client, world, now_ms)
    had = related_keys(client)
    with SingleServer(client) as servers:
        clean(servers, LuaEngine(client), new_report("lua"), orphans=orphans)
    assert had - related_keys(client) == announced
