"""Random histories: no sweep ever deletes a key of somebody who gave a sign of life within the threshold.

The server's clock can't be turned, so time passes by making everything that is written older, the times in
the names of messages too.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from tests.support.naive import owned_by
from tests.support.sweeping import NOTES, THRESHOLD_S, NamedEngine, all_keys, sweep

IDS = [b"a", b"b", b"a:1", b"1", b"init"]
ID = st.sampled_from(IDS)
#: What a message of now is called.
MESSAGE = b":done:1:"
RELATED = [
    *map(keys.signal, IDS),
    b"blocking:ack:a:1",
    b"blocking:ack:a:1:stop",
    b"blocking:ack:b:s",
    b"blocking:idempotency:a:b" + MESSAGE,
    b"blocking:idempotency:b:a" + MESSAGE,
    b"blocking:idempotency:a:1:b" + MESSAGE,
    b"blocking:idempotency:a:init",
    b"blocking:idempotency:op1:b",
]
STEPS = st.one_of(
    st.tuples(st.just("beat"), ID),
    st.tuples(st.just("expire"), ID),
    st.tuples(st.just("work"), ID),
    st.tuples(st.just("write"), st.sampled_from(RELATED)),
    # no sum of these is the threshold itself
    st.tuples(st.just("pass"), st.sampled_from([1, 250, 400, 601, 700])),
    st.tuples(st.just("sweep"), st.sampled_from(["off", "report", "reap", "reap", "reap"])),
)


class Fleet:
    """A fleet on a real server, with a clock of its own."""

    def __init__(self, client: Redis, engine: NamedEngine) -> None:
        self.client = client
        self.engine = engine
        self.clock_s = 0
        #: id -> when it last gave a sign of life
        self.alive_s: dict[bytes, int] = {}
        #: Ids whose heartbeat no sweep has seen yet. A heartbeat lives longer than sweeps are apart.
        self.unseen: set[bytes] = set()
        client.flushall()

    def beat(self, id_: bytes) -> None:
        self.client.set(keys.heartbeat(id_), server_time_ms(self.client))
        self.alive_s[id_] = self.clock_s
        self.unseen.add(id_)

    def expire(self, id_: bytes) -> None:
        if id_ not in self.unseen:
            self.client.delete(keys.heartbeat(id_))

    def work(self, id_: bytes) -> None:
        self.client.set(keys.activity(id_), server_time_ms(self.client))
        self.alive_s[id_] = self.clock_s

    def write(self, key: bytes) -> None:
        now_ms = server_time_ms(self.client)
        self.client.set(key + b"%d" % now_ms if key.endswith(MESSAGE) else key, "1")

    def pass_time(self, seconds: int) -> None:
        self.clock_s += seconds
        for key in all_keys(self.client):
            if key.startswith((keys.HEARTBEAT, keys.ACTIVITY)):
                self.client.decrby(key, seconds * 1000)
            elif MESSAGE in key:
                name, _, sent_ms = key.rpartition(b":")
                self.client.rename(key, b"%s:%d" % (name, int(sent_ms) - seconds * 1000))
        for id_ in self.client.hkeys(keys.SIGHTINGS):
            self.client.hincrby(keys.SIGHTINGS, id_, -seconds * 1000)

    def is_alive(self, id_: bytes) -> bool:
        return id_ in self.alive_s and self.clock_s - self.alive_s[id_] <= THRESHOLD_S

    def sweep(self, orphans: str) -> None:
        before = all_keys(self.client)
        now_ms = server_time_ms(self.client)
        report = sweep(self.client, self.engine, orphans=orphans)
        gone = before - all_keys(self.client) - NOTES
        assert report.keys_deleted == len(gone)
        beating = set(keys.ids_of_heartbeats(key for key in before if key.startswith(keys.HEARTBEAT)))
        working = {id_ for id_ in IDS if keys.activity(id_) in before}
        for key in gone:
            owned = owned_by(key, beating)
            losers = {id_ for id_ in IDS if self.is_alive(id_) and key in self.only_keys_of(id_)}
            # Whoever beats loses nothing that it may own
            losers |= set(filter(self.is_alive, owned.known))
            # nor does a party of a message that works, or of one that is still young
            if key.startswith(keys.IDEMPOTENCY):
                is_young = owned.sent_ms is not None and owned.sent_ms > now_ms - THRESHOLD_S * 1000
                losers |= {
                    id_ for id_ in owned.strangers if self.is_alive(id_) and (is_young or id_ in working)
                }
            assert losers == set(), key
            if orphans != "reap":
                # What only reaping may take is that of somebody with a (stale) heartbeat.
                own = any(key in (keys.heartbeat(id_), keys.activity(id_)) for id_ in beating)
                assert own or owned.known
        if orphans == "reap":  # only these sweeps forget the notes of whom they see
            self.unseen.clear()

    @staticmethod
    def only_keys_of(id_: bytes) -> set[bytes]:
        """Keys that nobody else in this fleet may own."""
        own = {keys.heartbeat(id_), keys.activity(id_), keys.signal(id_)}
        others = {b"a": {b"blocking:ack:a:1"}, b"b": {b"blocking:ack:b:s", b"blocking:idempotency:op1:b"}}
        return own | others.get(id_, set())


def live(fleet: Fleet, history: list[tuple[str, Any]]) -> None:
    steps = {"pass": fleet.pass_time}
    for step, argument in history:
        steps.get(step, getattr(fleet, step, None))(argument)  # type: ignore[misc]


@pytest.mark.parametrize("make", [LuaEngine, PythonEngine])
@given(history=st.lists(STEPS, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_history_costs_the_living_a_key(client: Redis, make: Any, history: list[tuple[str, Any]]) -> None:
    live(Fleet(client, make(client)), history)


def test_what_everybody_left_goes_in_the_end(client: Redis, engine: NamedEngine) -> None:
    """The other side: the histories above are not kept safe by never deleting."""
    fleet = Fleet(client, engine)
    for id_ in IDS:
        fleet.beat(id_)
        fleet.work(id_)
    for key in RELATED:
        fleet.write(key)
    fleet.sweep("reap")
    for id_ in IDS:
        fleet.expire(id_)
    fleet.sweep("reap")
    fleet.pass_time(THRESHOLD_S + 1)
    fleet.sweep("reap")
    assert all_keys(client) == set()
