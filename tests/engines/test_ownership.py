"""Who owns a key, for arbitrary ids and keys: both engines against a naive model."""

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import LOW_LATENCY
from tests.support.naive import names_two, owned_by
from tests.support.sweeping import all_keys, heartbeat_values, hold_at_most, sweep

#: Few letters, so that ids are parts of one another and names are ambiguous.
LETTERS = [bytes([byte]) for byte in b"ab1::*?[\\{}- \n\0\xff"]
IDS = st.lists(st.sampled_from(LETTERS), max_size=4).map(b"".join)
KINDS = st.sampled_from(["stale", "stale", "stale", "active", "unreadable"])
#: Ages of activities and messages in ms, and values that are no time.
OLD_MS, YOUNG_MS = 700_000, 100_000


@dataclass(frozen=True)
class Database:
    """Coordinators by kind, activities by age (None: unreadable), and keys with $O and $Y for times."""

    coordinators: dict[bytes, str]
    activities: dict[bytes, int | None]
    related: frozenset[bytes]

    def keys(self, now_ms: int) -> set[bytes]:
        """The related keys, with their times."""
        times = {b"$O": b"%d" % (now_ms - OLD_MS), b"$Y": b"%d" % (now_ms - YOUNG_MS)}
        filled = set()
        for key in self.related:
            for sign, time in times.items():
                key = key.replace(sign, time)
            filled.add(key)
        return filled

    def is_stale(self, id_: bytes) -> bool:
        return self.coordinators.get(id_) == "stale" and not self.works(id_)

    def works(self, id_: bytes) -> bool:
        return self.activities.get(id_) == YOUNG_MS

    def without_heartbeat(self, related: set[bytes]) -> set[bytes]:
        """Ids that keys name which nobody else can own, where ids with colons make others ambiguous."""
        found: set[bytes] = set()
        for key in related | set(map(keys.activity, self.activities)):
            owned = owned_by(key, self.coordinators)
            if not owned.known:
                found |= owned.strangers
        hold_colons = any(b":" in id_ for id_ in self.coordinators)
        return {id_ for id_ in found if hold_colons or b":" in id_}

    def doomed(self, related: set[bytes], now_ms: int) -> set[bytes]:
        """What a sweep that leaves orphans alone must take; all else it must leave."""
        stale = {id_ for id_ in self.coordinators if self.is_stale(id_)}
        gone = {spell(id_) for id_ in stale for spell in (keys.heartbeat, keys.signal, keys.activity)}
        others = self.without_heartbeat(related)
        for key in related:
            # Who is known by a key of its own may own another one that looks like it
            like_it = owned_by(key, others).known
            if any(b":" in id_ or not names_two(key) for id_ in like_it):
                continue
            owned = owned_by(key, self.coordinators)
            # A party without a heartbeat counts as dead if the message is old and it does nothing
            is_old = owned.sent_ms is not None and 10**12 <= owned.sent_ms < now_ms - 600_999
            dead = is_old and not any(map(self.works, owned.strangers))
            if owned.known and owned.known <= stale and (dead or not owned.strangers):
                gone.add(key)
        return gone


@st.composite
def databases(draw: st.DrawFn) -> Database:
    """Coordinators, and related keys that mix their ids with others."""
    coordinators = draw(st.dictionaries(IDS, KINDS, min_size=1, max_size=6))
    names = st.sampled_from(sorted(coordinators)) | IDS
    words = st.lists(names | st.just(b"init"), min_size=1, max_size=5).map(b":".join)
    tails = st.sampled_from(
        [b":done:1:$O", b":done:1:$O", b":done:1:$Y", b":done:1:2", b"::1:$O", b":done:x:$O"]
    )
    parties = st.tuples(names, names).map(b":".join)
    related = st.one_of(
        words.map(keys.ACK.__add__),
        words.map(keys.IDEMPOTENCY.__add__),
        st.tuples(parties | words, tails).map(lambda parts: keys.IDEMPOTENCY + b"".join(parts)),
        names.map(keys.signal),
        words.map(b"blocking:acks:".__add__),
    )
    activities = draw(st.dictionaries(names, st.sampled_from([OLD_MS, YOUNG_MS, None]), max_size=4))
    return Database(coordinators, activities, frozenset(draw(st.lists(related, max_size=15))))


def write(client: Redis, database: Database, now_ms: int) -> tuple[set[bytes], set[bytes]]:
    """Nothing but this database; returns all keys, and those that a sweep must take."""
    client.flushall()
    beats = heartbeat_values(now_ms)
    values: dict[bytes, str | bytes] = dict.fromkeys(database.keys(now_ms), "1")
    values |= {keys.heartbeat(id_): beats[kind] for id_, kind in database.coordinators.items()}
    for id_, age_ms in database.activities.items():
        values[keys.activity(id_)] = "odd" if age_ms is None else str(now_ms - age_ms)
    client.mset(values)
    return set(values), database.doomed(database.keys(now_ms), now_ms) & set(values)


@pytest.mark.parametrize("generation", [1, None])
@given(database=databases())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_what_stale_coordinators_alone_own(
    client: Redis, monkeypatch: pytest.MonkeyPatch, generation: int | None, database: Database
) -> None:
    """Whether the stale are dealt with one by one or all together."""
    limits = LOW_LATENCY
    if generation:
        hold_at_most(monkeypatch, generation)
        limits = replace(LOW_LATENCY, scan_count=1, read_keys=1)
    stale = sorted(keys.text(id_) for id_ in database.coordinators if database.is_stale(id_))
    for engine in (LuaEngine(client), PythonEngine(client)):
        before, expected = write(client, database, server_time_ms(client))
        assert sweep(client, engine, dry_run=True, limits=limits).keys_deleted == len(expected)
        assert all_keys(client) == before
        report = sweep(client, engine, limits=limits)
        assert before - all_keys(client) == expected
        assert (report.keys_deleted, report.complete) == (len(expected), True)
        assert sorted(json.loads(json.dumps(report.metrics()))["staleCoordinatorIds"]) == stale
