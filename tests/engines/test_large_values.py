"""Values of any size: nobody is asked for much at once, and what is read of a value has an end."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.engines.lua import script_source
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import MAX_BYTES
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.servers.values import FIRST_BYTES, VALUE_BYTES
from demo.servers import Server, running_server
from tests.conftest import ENGINES
from tests.support.sweeping import Before, NamedEngine, all_keys, monitored, sweep, write_heartbeat

#: What a client may leave in the server's output buffer before it is cut off.
OUTPUT_LIMIT = 1_500_000
BIG = 1_000_000


@pytest.fixture
def limited(client: Redis) -> Iterator[Redis]:
    """The server, where a client that asks for much at once is cut off."""
    client.config_set("client-output-buffer-limit", f"normal {OUTPUT_LIMIT} 0 0")
    yield client
    client.config_set("client-output-buffer-limit", "normal 0 0 0")


def value_of(time_ms: int, size: int) -> str:
    """A heartbeat or activity of that many bytes."""
    start = f'{{"timestamp":{time_ms},"x":"'
    return f'{start}{"x" * (size - len(start) - 2)}"}}'


def write_big(client: Redis, number: int, size: int, age_ms: int, spell: Any = keys.heartbeat) -> None:
    """Heartbeats of that size and age, or activities."""
    value = value_of(server_time_ms(client) - age_ms, size)
    for each in range(number):
        client.set(spell(b"c%d" % each), value)


def test_a_value_is_read_far_enough_to_see_that_it_is_too_long() -> None:
    assert VALUE_BYTES == MAX_BYTES + 1


def test_heartbeats_of_a_megabyte(limited: Redis, engine: NamedEngine) -> None:
    write_big(limited, 300, BIG, 700_000)
    write_heartbeat(limited, b"dead", "stale")
    report = sweep(limited, engine)
    assert (report.keys_deleted, report.complete) == (1, True)
    assert report.unreadable_by_reason == {"too_long": 300}
    assert limited.dbsize() == 300


@pytest.mark.parametrize("size", [FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1, MAX_BYTES])
def test_a_long_heartbeat_is_read_to_its_end(client: Redis, engine: NamedEngine, size: int) -> None:
    write_big(client, 40, size, 700_000)
    write_heartbeat(client, b"living", "active")
    assert sweep(client, engine).keys_deleted == 40
    assert all_keys(client) == {keys.heartbeat(b"living")}


@pytest.mark.parametrize("age_ms", [700_000, 1_000])
def test_activities_of_a_megabyte(limited: Redis, engine: NamedEngine, age_ms: int) -> None:
    """They say nothing, old or new; that they have not changed is seen by their beginning."""
    for number in range(50):
        write_heartbeat(limited, b"c%d" % number, "stale")
    write_big(limited, 50, BIG, age_ms, keys.activity)
    assert sweep(limited, engine).keys_deleted == 100
    assert limited.dbsize() == 0


def test_what_has_become_large_is_a_sign_of_life(limited: Redis, engine: NamedEngine) -> None:
    for number in range(50):
        write_heartbeat(limited, b"c%d" % number, "stale")

    def grow(_number: int, _batch: object) -> None:
        # those that had an activity have a larger one, and those that had none have one
        write_big(limited, 25, BIG, 700_000)
        for number in range(25, 50):
            limited.set(keys.activity(b"c%d" % number), value_of(server_time_ms(limited), BIG))

    report = sweep(limited, Before(engine, grow))
    assert (report.keys_deleted, report.revived_coordinators, report.complete) == (0, 50, True)
    assert limited.dbsize() == 75


@pytest.mark.parametrize("spell", [keys.heartbeat, keys.activity])
@pytest.mark.parametrize("changed", [{}, {"append": "x"}, {"set": "short"}, {"delete": None}])
def test_a_long_value_is_compared_like_others(
    client: Redis, engine: NamedEngine, spell: Any, changed: dict[str, str]
) -> None:
    write_heartbeat(client, b"a", "stale")
    write_big(client, 1, MAX_BYTES, 700_000, lambda _id: keys.heartbeat(b"a"))
    write_big(client, 1, MAX_BYTES, 700_000, lambda _id: keys.activity(b"a"))

    def change(_number: int, _batch: object) -> None:
        for command, argument in changed.items():
            getattr(client, command)(spell(b"a"), *([argument] if argument else []))

    report = sweep(client, Before(engine, change))
    assert report.keys_deleted == (0 if changed else 2)
    assert report.revived_coordinators == len(changed)


@pytest.mark.parametrize("name", ENGINES)
def test_a_dry_run_makes_the_server_evict_nobody(name: EngineName) -> None:
    with running_server() as server, server.client() as client:
        write_big(client, 1_000, 16_000, 1_000)
        used: int = client.info("memory")["used_memory"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", used + 2_000_000)
        report = sweep(client, ENGINES[name](client), dry_run=True)
        assert report.active_coordinators == 1_000
        assert client.info("stats")["evicted_keys"] == 0


def test_the_script_by_hand_holds_no_more_than_one() -> None:
    with running_server() as server, server.client() as client:
        write_big(client, 100, BIG, 1_000)
        before: int = client.info("memory")["used_memory_peak"]
        report = json.loads(client.eval(script_source("cleanup_blocking_coordination.lua"), 0, 600, 0))
        assert report["totalCoordinatorsChecked"] == 100
        assert client.info("memory")["used_memory_peak"] < before + 3 * BIG


def test_empty_missing_and_of_another_type(client: Redis) -> None:
    client.set("empty", "")
    client.set("full", "1")
    client.rpush("list", "1")
    names = [b"empty", b"full", b"list", b"missing"]
    servers = SingleServer(client)
    ((_context, _now_ms, values),) = servers.read([(None, names)])
    assert values == {b"empty": b"", b"full": b"1", b"list": None, b"missing": b""}
    assert servers.existing(names) == {b"empty", b"full", b"list"}
    assert servers.existing([]) == set()


def test_an_empty_heartbeat_is_one_and_an_expired_one_is_none(client: Redis, engine: NamedEngine) -> None:
    client.set(keys.heartbeat(b"empty"), "")
    client.rpush(keys.heartbeat(b"list"), "1")
    client.set(keys.heartbeat(b"dead"), json.dumps({"timestamp": server_time_ms(client) - 700_000}))
    client.set(keys.activity(b"dead"), "")
    report = sweep(client, engine)
    assert report.unreadable_by_reason == {"empty": 1, "no_string": 1}
    assert report.total_coordinators_checked == 3
    assert all_keys(client) == {keys.heartbeat(b"empty"), keys.heartbeat(b"list")}


def test_names_of_ten_kilobytes(server: Server, client: Redis, engine: NamedEngine) -> None:
    """After a page that was too large fewer are asked for at once."""
    ids = [b"%d:" % number + b"x" * 10_000 for number in range(1_500)]
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        client.mset(dict.fromkeys(map(keys.signal, some), "1"))
        seen_ms = server_time_ms(client) - 700_000
        client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(some, seen_ms))
    write_heartbeat(client, ids[0], "active")
    reports: list[Report] = []

    def act() -> None:
        with server.client() as own:
            reports.append(sweep(own, ENGINES[engine.name](own), orphans="reap"))

    sent = monitored(client, act)
    assert (reports[0].keys_deleted, reports[0].complete) == (1_499, True)
    for name in ("SCAN", "HSCAN"):
        counts = [int(words[-1]) for _, words in sent if words[0] == name]
        large = counts.count(1_000)
        assert counts == [1_000] * large + counts[large:]
        assert 1 <= large <= 3
        assert len(counts) - large >= 5
        assert max(counts[large:]) <= 100
