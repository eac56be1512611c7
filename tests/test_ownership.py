"""Who owns a key, for arbitrary ids: both engines and the script by hand against a naive model."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks import finder, keys, single
from cleanup_tasks.engines.lua import LuaEngine, script_source
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.pace import NEAR
from tests.sweeping import all_keys, sweep, write_heartbeat

#: Few letters, so that ids are parts of one another and names are ambiguous.
LETTERS = [bytes([byte]) for byte in b"ab1::*?[\\{}- \n\0\xff"]
IDS = st.lists(st.sampled_from(LETTERS), max_size=4).map(b"".join)
KINDS = st.sampled_from(["stale", "stale", "active", "unreadable"])


@st.composite
def databases(draw: st.DrawFn) -> tuple[dict[bytes, str], set[bytes]]:
    """Coordinators by kind, and related keys that mix their ids with others."""
    coordinators = draw(st.dictionaries(IDS, KINDS, min_size=1, max_size=6))
    names = st.sampled_from(sorted(coordinators)) | IDS
    words = st.lists(names | st.just(b"init"), min_size=1, max_size=5).map(b":".join)
    related = st.one_of(
        words.map(keys.ACK.__add__),
        words.map(keys.IDEMPOTENCY.__add__),
        names.map(keys.signal),
        names.map(keys.activity),
        words.map(b"blocking:acks:".__add__),
    )
    return coordinators, set(draw(st.lists(related, max_size=15)))


def may_own(coordinator: bytes, key: bytes) -> bool:
    """The rule in other words than the product's."""
    if key.startswith(keys.IDEMPOTENCY):
        return b":%s:" % coordinator in b":%s:" % key.removeprefix(keys.IDEMPOTENCY)
    return key.startswith(b"blocking:ack:%s:" % coordinator)


def doomed(coordinators: dict[bytes, str], related: set[bytes]) -> set[bytes]:
    """What a sweep must take, all else it must leave."""
    gone = set()
    for id_, kind in coordinators.items():
        if kind == "stale":
            gone |= {keys.heartbeat(id_), keys.signal(id_), keys.activity(id_)}
    for key in related:
        owners = {kind for id_, kind in coordinators.items() if may_own(id_, key)}
        if owners == {"stale"}:
            gone.add(key)
    return gone


def write(client: Redis, coordinators: dict[bytes, str], related: set[bytes]) -> set[bytes]:
    client.flushall()
    for id_, kind in coordinators.items():
        write_heartbeat(client, id_, kind)
    for key in related:
        client.set(key, "1")
    return all_keys(client)


@pytest.mark.parametrize("generation", [1, 200_000])
@given(database=databases())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_what_stale_coordinators_alone_may_own(
    client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    generation: int,
    database: tuple[dict[bytes, str], set[bytes]],
) -> None:
    """Whether the stale are dealt with one by one or all together."""
    monkeypatch.setattr(finder, "GENERATION", generation)
    if generation == 1:
        monkeypatch.setattr(single, "NEAR", replace(NEAR, scan_count=1, values=1))
    coordinators, related = database
    stale = sorted(keys.text(id_) for id_, kind in coordinators.items() if kind == "stale")
    for engine in (LuaEngine(client), PythonEngine(client)):
        before = write(client, coordinators, related)
        expected = doomed(coordinators, related) & before
        assert sweep(client, engine, dry_run=True).keys_deleted == len(expected)
        assert all_keys(client) == before
        report = sweep(client, engine)
        assert before - all_keys(client) == expected
        assert report.keys_deleted == len(expected)
        assert sorted(json.loads(json.dumps(report.metrics()))["staleCoordinatorIds"]) == stale
    before = write(client, coordinators, related)
    answer = json.loads(client.eval(script_source(), 0, "600", "0"))
    assert before - all_keys(client) == doomed(coordinators, related) & before
    assert sorted(answer["staleCoordinatorIds"]) == stale


@given(st.lists(st.sampled_from([*LETTERS, b"blocking", b"ack", b"idempotency", b":"]), max_size=9))
def test_possible_owners_are_the_rule(parts: list[bytes]) -> None:
    name = b"".join(parts)
    for key in (name, keys.ACK + name, keys.IDEMPOTENCY + name):
        owners = keys.possible_owners(key)
        segments = key.split(b":")[2:]
        runs = {b":".join(segments[first:last]) for last in range(len(segments) + 1) for first in range(last)}
        if not key.startswith((keys.ACK, keys.IDEMPOTENCY)):
            runs = set()
        assert sorted(owners) == sorted(id_ for id_ in runs if may_own(id_, key))


def test_a_name_of_too_many_segments_has_no_owner() -> None:
    most = b":".join([b"a"] * keys.MAX_SEGMENTS)
    assert b"a" in keys.possible_owners(keys.IDEMPOTENCY + most)
    assert keys.possible_owners(keys.IDEMPOTENCY + most + b":a") == []
    assert b"a" in keys.possible_owners(keys.ACK + most)
    assert keys.possible_owners(keys.ACK + most + b":a") == []


def test_the_script_has_the_same_limit(client: Redis) -> None:
    write_heartbeat(client, b"a", "stale")
    kept = keys.IDEMPOTENCY + b":".join([b"a"] * (keys.MAX_SEGMENTS + 1))
    client.mset({kept: "1", keys.IDEMPOTENCY + b":".join([b"a"] * keys.MAX_SEGMENTS): "1"})
    client.eval(script_source(), 0, "600", "0")
    assert all_keys(client) == {kept}
