"""A sweep while the fleet lives on: what changes between finding and reaping, sizes, and what is sent."""

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.engines.lua import LuaEngine, script_source
from cleanup_tasks.engines.python import ATTEMPTS, PythonEngine
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import LOW_LATENCY
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.sweep.batcher import WHOLE_KEYS
from cleanup_tasks.sweep.fleet import Due
from demo.dataset import KEYS_EACH, keys_of, write_acceptance_data
from demo.servers import wait_until
from tests.support.sweeping import (
    Before,
    NamedEngine,
    all_keys,
    clean,
    digest,
    heartbeat_values,
    meddling,
    new_report,
    sweep,
    write_heartbeat,
    write_stale,
)


@pytest.mark.parametrize("sign_of_life", [keys.heartbeat, keys.activity])
def test_a_coordinator_that_revives_loses_nothing(
    client: Redis, engine: NamedEngine, sign_of_life: Callable[[bytes], bytes]
) -> None:
    # Given three stale coordinators, one of which gives a sign of life after it was found
    write_stale(client, b"a", b"b", b"c")
    client.set("blocking:idempotency:b:c:done:1:2", "1")
    now_ms = int(client.time()[0]) * 1000
    report = sweep(client, Before(engine, lambda *_: client.set(sign_of_life(b"b"), now_ms)))
    # Then it keeps all it has, the record that it shares included, and the others' keys went
    assert all_keys(client) == {*keys_of(b"b"), b"blocking:idempotency:b:c:done:1:2"}
    assert report.keys_deleted == 2 * KEYS_EACH
    assert (report.stale_coordinators_found, report.revived_coordinators) == (3, 1)
    assert report.complete


@pytest.mark.parametrize("sign_of_life", [keys.heartbeat, keys.activity])
@pytest.mark.parametrize("who", [b"c00", b"c11"])
def test_an_owner_that_comes_back_keeps_an_old_record_and_the_other_owner_goes(
    client: Redis,
    engine: NamedEngine,
    monkeypatch: pytest.MonkeyPatch,
    sign_of_life: Callable[[bytes], bytes],
    who: bytes,
) -> None:
    """The first owner has gone before, and the record is on its way with the last one."""
    # Given stale coordinators, which are found in the order of their names and go one after the other
    ids = [b"c%02d" % number for number in range(12)]
    write_stale(client, *ids)
    old_ms = server_time_ms(client) - 700_000
    record = b"blocking:idempotency:c00:c11:done:3:%d" % old_ms
    client.set(record, "1")
    scan = SingleServer.scan

    def in_order(servers: SingleServer, pattern: bytes) -> Iterator[list[bytes]]:
        yield sorted({key for page in scan(servers, pattern) for key in page})

    monkeypatch.setattr(SingleServer, "scan", in_order)
    # When one of its owners gives a sign of life just before it goes
    signs: list[object] = []

    def happen(_number: int, batch: Batch) -> None:
        if record in batch.keys and not signs:
            signs.append(client.set(sign_of_life(who), server_time_ms(client)))

    report = sweep(client, Before(engine, happen), limits=replace(LOW_LATENCY, batch_keys=5, in_flight=1))
    # Then it stays, and the other owner does not
    assert signs == [True]
    left = {*keys_of(who), record} if who == b"c11" else {sign_of_life(who), record}
    assert all_keys(client) == left
    assert (report.reaped, report.revived_coordinators) == ((12, 0) if who == b"c00" else (11, 1))
    assert report.complete


def test_a_heartbeat_that_expires_in_between_keeps_the_rest(client: Redis, engine: NamedEngine) -> None:
    write_stale(client, b"a", b"b")
    report = sweep(client, Before(engine, lambda *_: client.delete(keys.heartbeat(b"a"))))
    assert all_keys(client) == set(keys_of(b"a")) - {keys.heartbeat(b"a")}
    assert report.keys_deleted == KEYS_EACH
    # It changed, so it is left for the next sweep to judge
    assert (report.revived_coordinators, report.complete) == (1, True)


@pytest.mark.parametrize("what", ["beats", "works"])
@pytest.mark.parametrize("message", [b"x:a", b"a:x"])
def test_a_party_that_appears_in_between_loses_nothing(
    client: Redis, engine: NamedEngine, what: str, message: bytes
) -> None:
    # Given a stale coordinator, and an old message with one that nobody has seen
    write_stale(client, b"a", b"b")
    record = b"blocking:idempotency:%s:done:1:%d" % (message, server_time_ms(client) - 700_000)
    client.set(record, "1")

    def appear(_number: int, _batch: Batch) -> None:
        if what == "beats":
            write_heartbeat(client, b"x", "active")
        else:
            client.set(keys.activity(b"x"), server_time_ms(client))

    report = sweep(client, Before(engine, appear))
    # Then the message stays, and all that is the others' own went
    sign = keys.heartbeat(b"x") if what == "beats" else keys.activity(b"x")
    assert all_keys(client) == {record, sign}
    assert (report.keys_deleted, report.complete) == (2 * KEYS_EACH, True)
    assert report.revived_coordinators == 0, "it was not found stale"


@pytest.mark.parametrize(
    ("sent_ago_ms", "activity_ago_ms", "stays"),
    [
        (100_000, None, True),
        (700_000, None, False),
        (700_000, 0, True),
        (700_000, 700_000, False),
        (100_000, 700_000, True),
        # no time, so no sign that it is old
        (1_700_000_000_000, None, True),
        (-87_000_000, None, True),
    ],
)
def test_a_message_with_one_that_has_no_heartbeat(
    client: Redis, engine: NamedEngine, sent_ago_ms: int, activity_ago_ms: int | None, stays: bool
) -> None:
    """It may be paused; the message is the last sign of it, unless it does something."""
    write_stale(client, b"a")
    now_ms = server_time_ms(client)
    record = b"blocking:idempotency:a:x:done:1:%d" % (now_ms - sent_ago_ms)
    client.set(record, "1")
    if activity_ago_ms is not None:
        client.set(keys.activity(b"x"), now_ms - activity_ago_ms)
    announced = sweep(client, engine, dry_run=True)
    report = sweep(client, engine)
    assert client.exists(record) == stays
    assert announced.keys_deleted == report.keys_deleted == KEYS_EACH + (not stays)
    assert not client.exists(keys.heartbeat(b"a"))


def test_a_dry_run_chooses_like_the_real_run_and_writes_nothing(client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, total=500, active=5)
    write_heartbeat(client, b"u", "unreadable")
    before = digest(client)
    announced = sweep(client, engine, dry_run=True).metrics()
    assert digest(client) == before
    done = sweep(client, engine).metrics()
    for metrics in (announced, done):
        del metrics["dryRun"], metrics["executionTimeMs"], metrics["coordinatorsPerSecond"]
    assert sorted(announced.pop("staleCoordinatorIds")) == sorted(done.pop("staleCoordinatorIds"))
    assert announced == done
    assert client.dbsize() == 5 * KEYS_EACH + 1


def test_nothing_stale_sends_no_scan_for_related_keys(client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, total=2_000, active=2_000)
    client.config_resetstat()
    report = sweep(client, engine)
    sent = {name: row["calls"] for name, row in client.info("commandstats").items()}
    assert report.active_coordinators == 2_000
    # SCAN goes through the hash table's buckets: at most twice as many as there are keys, or so.
    assert sent["cmdstat_scan"] <= 3 * 2_000 * KEYS_EACH // LOW_LATENCY.scan_count
    ours = {name.removeprefix("cmdstat_") for name in sent}
    introductions = {"client", "client|setname", "client|setinfo", "hello"}
    assert ours - introductions - {"info", "config|resetstat", "config"} == {
        "exists",
        "get",
        "scan",
        "getrange",
        "time",
    }


def test_keys_of_any_type_go(client: Redis, engine: NamedEngine) -> None:
    write_heartbeat(client, b"a", "stale")
    client.hset(keys.signal(b"a"), "field", "value")
    client.rpush("blocking:ack:a:1", "x")
    client.sadd("blocking:idempotency:a:init", "x")
    client.zadd(keys.activity(b"a"), {"x": 1})
    assert sweep(client, engine).keys_deleted == 5
    assert all_keys(client) == set()


def test_a_coordinator_with_20000_acks_goes_in_parts(client: Redis, engine: NamedEngine) -> None:
    write_stale(client, b"big", b"small")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(20_000)})
    parts = Before(engine, lambda *_: None)
    report = sweep(client, parts)
    assert report.keys_deleted == 20_000 + 2 * KEYS_EACH
    assert all_keys(client) == set()
    assert max(len(batch.keys) for batch in parts.batches) <= WHOLE_KEYS
    heartbeat = keys.heartbeat(b"big")
    of_big = [heartbeat in batch.keys for batch in parts.batches if heartbeat in batch.values]
    assert len(of_big) > 20
    assert of_big == [False] * (len(of_big) - 1) + [True], "the heartbeat goes last"


def test_a_large_coordinator_that_revives_between_parts_keeps_the_rest(
    client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, b"big")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(20_000)})

    def revive(number: int, _batch: Batch) -> None:
        if number == 6:
            write_heartbeat(client, b"big", "active")

    report = sweep(client, Before(engine, revive))
    assert client.dbsize() == 20_000 + KEYS_EACH - report.keys_deleted
    assert 0 < report.keys_deleted < 10_000
    assert client.exists(keys.heartbeat(b"big"), keys.activity(b"big")) == 2
    assert (report.stale_coordinators_found, report.revived_coordinators) == (1, 1)


def test_many_that_share_records_go_in_parts(client: Redis, engine: NamedEngine) -> None:
    # Given a hub that exchanged messages with 3,000 others, all dead
    write_stale(client, b"hub", *(b"w%d" % number for number in range(3_000)))
    client.mset({b"blocking:idempotency:hub:w%d:done:1:2" % number: "1" for number in range(3_000)})
    parts = Before(engine, lambda *_: None)
    report = sweep(client, parts)
    assert report.keys_deleted == 3_001 * KEYS_EACH + 3_000
    assert all_keys(client) == set()
    assert max(batch.load for batch in parts.batches) < 4 * LOW_LATENCY.batch_keys


@pytest.mark.every_server
def test_a_batch_that_a_later_one_has_overtaken_is_given_up(client: Redis) -> None:
    """Somebody flushes the scripts before it, and somebody else loads them before the next one."""
    now_ms = server_time_ms(client)
    ids = [b"c%02d" % number for number in range(40)]
    client.mset(dict.fromkeys(map(keys.heartbeat, ids), now_ms - 700_000))
    records = [
        keys.IDEMPOTENCY + b"%s:%s:done:1:%d" % (*pair, now_ms - 700_000)
        for pair in zip(ids[::2], ids[1::2], strict=True)
    ]
    client.mset(dict.fromkeys(records, "1"))
    client.config_resetstat()

    def are_done(batches: int) -> bool:
        calls: int = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        return calls == 1 + batches  # the first one is made with nothing to do

    def meddle(number: int, _batch: Batch) -> None:
        if number == 5:
            wait_until(lambda: are_done(4), "those before are done")
            client.script_flush()
        elif number == 6:
            wait_until(lambda: "errorstat_NOSCRIPT" in client.info("errorstats"), "the one before is refused")
            client.script_load(script_source())

    report = new_report("lua")
    with SingleServer(client) as servers:
        servers.limits = replace(LOW_LATENCY, batch_keys=2, in_flight=len(ids))  # no batch waits for others
        clean(servers, Before(LuaEngine(client), meddle), report)
    assert (report.complete, report.cleanup_errors) == (False, 1)
    assert report.keys_deleted == len(ids) + len(records) - client.dbsize()
    # and the next sweep finds what was left
    sweep(client, LuaEngine(client))
    assert client.dbsize() == 0


def test_a_script_flush_in_the_middle_heals(client: Redis) -> None:
    write_acceptance_data(client, total=1_000, active=10)
    client.script_flush()
    flushing = Before(LuaEngine(client), lambda *_: client.script_flush())
    report = sweep(client, flushing)
    assert len(flushing.batches) > 2
    assert report.keys_deleted == 990 * KEYS_EACH
    assert client.dbsize() == 10 * KEYS_EACH
    assert report.complete


def test_ids_of_any_bytes(client: Redis, engine: NamedEngine) -> None:
    write_stale(client, b"\xff\xfe", b"k\xc3\xb6ln", b"\xed\xa0\x80", b"\xe2\x82", b"back\\slash")
    report = sweep(client, engine)
    assert report.keys_deleted == 5 * KEYS_EACH
    ids = json.loads(json.dumps(report.metrics()).encode())["staleCoordinatorIds"]
    assert sorted(ids) == sorted(["\\xff\\xfe", "köln", "\\xed\\xa0\\x80", "\\xe2\\x82", "back\\slash"])


def test_whoever_revives_after_the_look_loses_nothing(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stale(client, b"a", b"b", b"c", b"d")
    # Given b that beats between the look and the transaction
    attempts = meddling(monkeypatch, lambda attempt: attempt == 1 and write_heartbeat(client, b"b", "active"))
    report = sweep(client, PythonEngine(client))
    assert attempts == [1, 2]
    assert all_keys(client) == set(keys_of(b"b"))
    assert (report.keys_deleted, report.revived_coordinators) == (3 * KEYS_EACH, 1)
    assert report.complete


def test_a_batch_that_changes_all_the_time_is_given_up(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stale(client, b"a", b"b", b"c", b"d")
    before = all_keys(client)
    # Given a stale heartbeat that somebody writes anew all the time
    value = client.get(keys.heartbeat(b"b"))
    assert value is not None
    attempts = meddling(monkeypatch, lambda _attempt: client.set(keys.heartbeat(b"b"), value))
    report = sweep(client, PythonEngine(client))
    # Then the batch is left alone in the end, and the report says so
    assert len(attempts) == ATTEMPTS
    assert all_keys(client) == before
    assert (report.keys_deleted, report.cleanup_errors, report.complete) == (0, 1, False)
    # and the next sweep takes it
    monkeypatch.undo()
    assert sweep(client, PythonEngine(client)).keys_deleted == 4 * KEYS_EACH


def test_of_a_large_coordinator_that_is_given_up_the_heartbeat_stays(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stale(client, b"big")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(6_000)})
    value = client.get(keys.heartbeat(b"big"))
    assert value is not None

    # Given a heartbeat that is written anew whenever the first part was looked at
    def meddle(attempt: int) -> None:
        if attempt <= ATTEMPTS:
            client.set(keys.heartbeat(b"big"), value)

    meddling(monkeypatch, meddle)
    report = sweep(client, PythonEngine(client))
    assert (report.cleanup_errors, report.complete) == (1, False)
    assert client.exists(keys.heartbeat(b"big"))
    # Then the next sweep finds what is left
    again = sweep(client, PythonEngine(client))
    assert report.keys_deleted + again.keys_deleted == 6_000 + KEYS_EACH
    assert all_keys(client) == set()


def test_long_heartbeats_make_small_batches(client: Redis, engine: NamedEngine) -> None:
    value = json.dumps({"lastHeartbeat": server_time_ms(client) - 700_000, "metadata": "x" * 10_000})
    client.mset({keys.heartbeat(b"c%d" % number): value for number in range(50)})
    parts = Before(engine, lambda *_: None)
    assert sweep(client, parts).keys_deleted == 50
    # 10,000 bytes weigh as much as ten keys
    assert max(len(batch.subjects) for batch in parts.batches) <= LOW_LATENCY.batch_keys // 10 + 1
    assert max(batch.load for batch in parts.batches) < LOW_LATENCY.batch_keys + 20


class SteppedBack(SingleServer):
    """A server whose clock was an hour ahead when the heartbeats were read, and not any more."""

    def read(
        self, lots: Iterable[tuple[Any, list[bytes]]]
    ) -> Iterator[tuple[Any, int, dict[bytes, bytes | None]]]:
        for context, now_ms, values in super().read(lots):
            ahead = any(name.startswith(keys.HEARTBEAT) for name in values)
            yield context, now_ms + ahead * 3_600_000, values


def test_a_clock_that_goes_back_between_two_readings(client: Redis, engine: NamedEngine) -> None:
    write_heartbeat(client, b"a", "active")
    report = new_report(engine.name)
    clean(SteppedBack(client), engine, report)
    assert (report.stale_coordinators_found, report.revived_coordinators) == (1, 0)
    assert (report.cleanup_errors, report.complete) == (1, False)
    assert client.exists(keys.heartbeat(b"a"))


@pytest.mark.parametrize(
    "value",
    [
        "1000000000000000",
        "not json",
        '"1760000000000"',
        '{"timestamp": 1760000000000, "lastActivity": 1000000000000000}',
    ],
)
def test_an_activity_that_is_no_time_or_an_old_one_saves_nobody(
    client: Redis, engine: NamedEngine, value: str
) -> None:
    write_heartbeat(client, b"a", "stale")
    client.set(keys.activity(b"a"), value)
    assert sweep(client, engine).keys_deleted == 2


@pytest.mark.parametrize("spell", [keys.heartbeat, keys.activity])
def test_any_change_is_a_sign_of_life(
    client: Redis, engine: NamedEngine, spell: Callable[[bytes], bytes]
) -> None:
    """The engines read nothing: one blank more, or another old time, and the next sweep judges."""
    for change in (
        lambda: client.append(spell(b"a"), " "),
        lambda: client.set(spell(b"a"), heartbeat_values(server_time_ms(client) - 9_000)["stale"]),
        lambda: client.delete(spell(b"a")),
    ):
        client.flushall()
        write_stale(client, b"a")
        write_heartbeat(client, b"a", "stale")
        before = all_keys(client)
        report = sweep(client, Before(engine, lambda *_, change=change: change()))
        assert all_keys(client) >= before - {spell(b"a")}
        assert (report.keys_deleted, report.revived_coordinators, report.complete) == (0, 1, True)


def test_a_sweep_leaves_nothing_to_the_garbage_collector(client: Redis, engine: NamedEngine) -> None:
    """A cycle of references would leave it all coordinators, and large sweeps would end with its pause."""
    write_acceptance_data(client, 300, 0)
    gc.collect()
    gc.disable()
    try:
        assert sweep(client, engine, orphans="report").reaped == 300
        assert [thing for thing in gc.get_objects() if isinstance(thing, Due)] == []
    finally:
        gc.enable()
