"""Random histories: no sweep ever deletes a key of somebody who gave a sign of life within the threshold.

The server's clock can't be turned, so time passes by making everything that is written older.
"""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import Engine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from tests.sweeping import THRESHOLD_S, all_keys, sweep
from tests.test_ownership import may_own

IDS = [b"a", b"b", b"a:1", b"1", b"init"]
ID = st.sampled_from(IDS)
RELATED = [
    *map(keys.signal, IDS),
    b"blocking:ack:a:1",
    b"blocking:ack:a:1:stop",
    b"blocking:ack:b:s",
    b"blocking:idempotency:a:b:done:1:2",
    b"blocking:idempotency:b:a:done:1:2",
    b"blocking:idempotency:a:init",
    b"blocking:idempotency:op1:b",
]
STEPS = st.one_of(
    st.tuples(st.just("beat"), ID),
    st.tuples(st.just("expire"), ID),
    st.tuples(st.just("work"), ID),
    st.tuples(st.just("write"), st.sampled_from(RELATED)),
    st.tuples(st.just("pass"), st.sampled_from([1, 200, 400, 601, 700])),
    st.tuples(st.just("sweep"), st.sampled_from(["off", "report", "reap", "reap", "reap"])),
)


class Fleet:
    """A fleet on a real server, with a clock of its own."""

    def __init__(self, client: Redis, engine: Engine) -> None:
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
        self.client.set(key, "1")

    def pass_time(self, seconds: int) -> None:
        self.clock_s += seconds
        for key in [
            *self.client.scan_iter(keys.HEARTBEAT_PATTERN),
            *self.client.scan_iter(keys.ACTIVITY + b"*"),
        ]:
            self.client.decrby(key, seconds * 1000)
        for id_ in self.client.hkeys(keys.SIGHTINGS):
            self.client.hincrby(keys.SIGHTINGS, id_, -seconds * 1000)

    def sweep(self, orphans: str) -> None:
        before = all_keys(self.client)
        stale = [
            id_
            for id_, alive_s in self.alive_s.items()
            if keys.heartbeat(id_) in before and self.clock_s - alive_s > THRESHOLD_S
        ]
        visible = [id_ for id_ in IDS if {keys.heartbeat(id_), keys.activity(id_)} & before]
        report = sweep(self.client, self.engine, orphans=orphans)
        gone = before - all_keys(self.client) - {keys.SIGHTINGS}
        assert report.keys_deleted == len(gone)
        for key in gone:
            shared_with_stale = any(may_own(id_, key) for id_ in stale)
            for id_, alive_s in self.alive_s.items():
                # Beside a stale owner, one without any sign of life in sight is nobody.
                alive = self.clock_s - alive_s <= THRESHOLD_S and (id_ in visible or not shared_with_stale)
                assert not (alive and self.belongs(key, id_)), (key, id_)
        if orphans != "reap":
            # What only reaping may take is that of somebody with a (stale) heartbeat.
            beating = [keys.coordinator_of(key) for key in before if key.startswith(keys.HEARTBEAT)]
            assert all(any(self.belongs(key, id_) for id_ in beating) for key in gone)
        if orphans == "reap":  # only these sweeps forget the notes of whom they see
            self.unseen.clear()

    @staticmethod
    def belongs(key: bytes, id_: bytes) -> bool:
        own = (keys.heartbeat(id_), keys.activity(id_), keys.signal(id_))
        return key in own or may_own(id_, key)


@given(history=st.lists(STEPS, max_size=30))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_history_costs_the_living_a_key(client: Redis, history: list[tuple[str, Any]]) -> None:
    for engine in (LuaEngine(client), PythonEngine(client)):
        fleet = Fleet(client, engine)
        steps = {"pass": fleet.pass_time}
        for step, argument in history:
            steps.get(step, getattr(fleet, step, None))(argument)  # type: ignore[misc]


def test_what_everybody_left_goes_in_the_end(client: Redis) -> None:
    """The other side: the histories above are not kept safe by never deleting."""
    for engine in (LuaEngine(client), PythonEngine(client)):
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
