"""A sweep while the fleet lives on: what changes between finding and reaping, sizes, and what is sent."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.collector import WHOLE_KEYS, Collector
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import Engine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.pace import NEAR
from cleanup_tasks.reaper import ATTEMPTS
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep
from demo.dataset import KEYS_EACH, keys_of, write_acceptance_data
from tests.sweeping import (
    Before,
    all_keys,
    digest,
    new_report,
    sweep,
    write_heartbeat,
    write_stale,
)


@pytest.mark.parametrize("sign_of_life", [keys.heartbeat, keys.activity])
def test_a_coordinator_that_revives_loses_nothing(
    client: Redis, engine: Engine, sign_of_life: Callable[[bytes], bytes]
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


def test_a_heartbeat_that_expires_in_between_keeps_the_rest(client: Redis, engine: Engine) -> None:
    write_stale(client, b"a", b"b")
    report = sweep(client, Before(engine, lambda *_: client.delete(keys.heartbeat(b"a"))))
    assert all_keys(client) == set(keys_of(b"a")) - {keys.heartbeat(b"a")}
    assert report.keys_deleted == KEYS_EACH
    assert report.revived_coordinators == 0


@pytest.mark.parametrize(
    ("newcomer", "theirs"),
    [
        (b"a:1", b"blocking:ack:a:1:stop"),
        (b"x", b"blocking:idempotency:x:a:done:1:2"),
        (b"a:init", b"blocking:idempotency:a:init"),
    ],
)
def test_a_coordinator_that_starts_in_between_loses_nothing(
    client: Redis, engine: Engine, newcomer: bytes, theirs: bytes
) -> None:
    # Given a stale coordinator and a key that a coordinator nobody has seen may own too
    write_stale(client, b"a", b"b")
    client.set(theirs, "1")
    before = all_keys(client)
    report = sweep(client, Before(engine, lambda *_: write_heartbeat(client, newcomer, "active")))
    # Then the newcomer's key stays, and all others of the stale went
    assert all_keys(client) == {theirs, keys.heartbeat(newcomer)}
    assert report.keys_deleted == len(before) - 1
    assert report.complete


@pytest.mark.parametrize(("age_ms", "stays"), [(0, True), (700_000, False)], ids=["fresh", "old"])
def test_whoever_works_without_a_heartbeat_keeps_its_records(
    client: Redis, engine: Engine, age_ms: int, stays: bool
) -> None:
    # Given a message between a stale coordinator and one that has an activity and no heartbeat (yet)
    write_stale(client, b"a")
    client.set(keys.activity(b"x"), server_time_ms(client) - age_ms)
    client.set("blocking:idempotency:a:x:done:1:2", "1")
    report = sweep(client, engine)
    assert client.exists("blocking:idempotency:a:x:done:1:2") == stays
    assert report.keys_deleted == KEYS_EACH + (not stays)
    assert not client.exists(keys.heartbeat(b"a"))


def test_a_dry_run_chooses_like_the_real_run_and_writes_nothing(client: Redis, engine: Engine) -> None:
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


def test_nothing_stale_sends_no_scan_for_related_keys(client: Redis, engine: Engine) -> None:
    write_acceptance_data(client, total=2_000, active=2_000)
    client.config_resetstat()
    report = sweep(client, engine)
    sent = {name: row["calls"] for name, row in client.info("commandstats").items()}
    assert report.active_coordinators == 2_000
    # SCAN goes through the hash table's buckets: at most twice as many as there are keys, or so.
    assert sent["cmdstat_scan"] <= 3 * 2_000 * KEYS_EACH // NEAR.scan_count
    ours = {name.removeprefix("cmdstat_") for name in sent}
    introductions = {"client", "client|setname", "client|setinfo", "hello"}
    assert ours - introductions - {"info", "config|resetstat", "config"} == {"exists", "scan", "mget", "time"}


def test_keys_of_any_type_go(client: Redis, engine: Engine) -> None:
    write_heartbeat(client, b"a", "stale")
    client.hset(keys.signal(b"a"), "field", "value")
    client.rpush("blocking:ack:a:1", "x")
    client.sadd("blocking:idempotency:a:init", "x")
    client.zadd(keys.activity(b"a"), {"x": 1})
    assert sweep(client, engine).keys_deleted == 5
    assert all_keys(client) == set()


def test_a_coordinator_with_20000_acks_goes_in_parts(client: Redis, engine: Engine) -> None:
    write_stale(client, b"big", b"small")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(20_000)})
    parts = Before(engine, lambda *_: None)
    report = sweep(client, parts)
    assert report.keys_deleted == 20_000 + 2 * KEYS_EACH
    assert all_keys(client) == set()
    assert max(batch.size for batch in parts.batches) <= WHOLE_KEYS
    of_big = [batch.partial for batch in parts.batches if b"big" in batch.own]
    assert of_big == [True] * (len(of_big) - 1) + [False], "the heartbeat goes last"


def test_a_large_coordinator_that_revives_between_parts_keeps_the_rest(client: Redis, engine: Engine) -> None:
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


def test_many_that_share_records_go_in_parts(client: Redis, engine: Engine) -> None:
    # Given a hub that exchanged messages with 3,000 others, all dead
    write_stale(client, b"hub", *(b"w%d" % number for number in range(3_000)))
    client.mset({b"blocking:idempotency:hub:w%d:done:1:2" % number: "1" for number in range(3_000)})
    parts = Before(engine, lambda *_: None)
    report = sweep(client, parts)
    assert report.keys_deleted == 3_001 * KEYS_EACH + 3_000
    assert all_keys(client) == set()
    assert max(batch.size for batch in parts.batches) <= WHOLE_KEYS


def test_batches_are_filled_evenly() -> None:
    collector = Collector([b"c%d" % number for number in range(5_000)], set(), 500)
    collector.add((b"blocking:ack:c%d:s" % number, [b"c%d" % number]) for number in range(5_000))
    sizes = [batch.size for batch in collector.batches()]
    assert sum(sizes) == 5_000 * 4
    assert all(490 < size <= 500 for size in sizes[:-1])


def test_a_script_flush_in_the_middle_heals(client: Redis) -> None:
    write_acceptance_data(client, total=1_000, active=10)
    client.script_flush()
    flushing = Before(LuaEngine(client), lambda *_: client.script_flush())
    report = sweep(client, flushing)
    assert len(flushing.batches) > 2
    assert report.keys_deleted == 990 * KEYS_EACH
    assert client.dbsize() == 10 * KEYS_EACH
    assert report.complete


def test_ids_of_any_bytes(client: Redis, engine: Engine) -> None:
    write_stale(client, b"\xff\xfe", b"k\xc3\xb6ln", b"\xed\xa0\x80", b"\xe2\x82", b"back\\slash")
    report = sweep(client, engine)
    assert report.keys_deleted == 5 * KEYS_EACH
    ids = json.loads(json.dumps(report.metrics()).encode())["staleCoordinatorIds"]
    assert sorted(ids) == sorted(["\\xff\\xfe", "köln", "\\xed\\xa0\\x80", "\\xe2\\x82", "back\\slash"])


class Meddling(PythonEngine):
    """Lets others write after a batch was judged and before it is reaped."""

    def __init__(self, client: Redis, meddle: Callable[[int], object]) -> None:
        super().__init__(client)
        self._meddle = meddle
        self.judged: list[int] = []

    def _judge(self, look: Any) -> list[int]:
        verdicts = super()._judge(look)
        self.judged.append(len(verdicts))
        self._meddle(len(self.judged))
        return verdicts


def test_the_python_engine_judges_again_what_changed(client: Redis) -> None:
    write_stale(client, b"a", b"b", b"c", b"d")
    # Given b that beats between the judgement and the transaction
    engine = Meddling(client, lambda times: times == 1 and write_heartbeat(client, b"b", "active"))
    report = sweep(client, engine)
    assert engine.judged == [4, 4]
    assert all_keys(client) == set(keys_of(b"b"))
    assert (report.keys_deleted, report.revived_coordinators) == (3 * KEYS_EACH, 1)
    assert report.complete


def test_the_python_engine_halves_what_keeps_changing(client: Redis) -> None:
    write_stale(client, b"a", b"b", b"c", b"d")
    # Given a stale heartbeat that somebody writes anew all the time
    engine = Meddling(client, lambda _times: write_heartbeat(client, b"b", "stale"))
    report = sweep(client, engine)
    # Then only that one is left alone in the end, and the report says so
    assert engine.judged[:2] == [4, 4]
    assert all_keys(client) == set(keys_of(b"b"))
    assert report.keys_deleted == 3 * KEYS_EACH
    assert report.cleanup_errors == 1
    assert not report.complete


def test_of_a_large_coordinator_that_is_given_up_the_heartbeat_stays(client: Redis) -> None:
    write_stale(client, b"big")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(6_000)})
    # Given a heartbeat that changes whenever the first part is judged
    engine = Meddling(client, lambda times: times <= ATTEMPTS and write_heartbeat(client, b"big", "stale"))
    report = sweep(client, engine)
    assert (report.cleanup_errors, report.complete) == (1, False)
    assert client.exists(keys.heartbeat(b"big"))
    # Then the next sweep finds what is left
    again = sweep(client, PythonEngine(client))
    assert report.keys_deleted + again.keys_deleted == 6_000 + KEYS_EACH
    assert all_keys(client) == set()


def test_long_heartbeats_make_small_batches(client: Redis, engine: Engine) -> None:
    value = json.dumps({"lastHeartbeat": server_time_ms(client) - 700_000, "metadata": "x" * 10_000})
    client.mset({keys.heartbeat(b"c%d" % number): value for number in range(50)})
    parts = Before(engine, lambda *_: None)
    assert sweep(client, parts).keys_deleted == 50
    assert max(len(batch.own) for batch in parts.batches) <= 2


def test_a_newcomer_between_judgement_and_transaction_loses_nothing(client: Redis) -> None:
    write_stale(client, b"a")
    client.set("blocking:ack:a:1:stop", "1")
    engine = Meddling(client, lambda times: times == 1 and write_heartbeat(client, b"a:1", "active"))
    report = sweep(client, engine)
    assert all_keys(client) == {b"blocking:ack:a:1:stop", keys.heartbeat(b"a:1")}
    assert report.keys_deleted == KEYS_EACH


def test_a_sweep_that_breaks_off_says_what_it_did(client: Redis, engine: Engine) -> None:
    write_acceptance_data(client, total=1_000, active=10)

    def break_off(number: int, _batch: Batch) -> None:
        if number == 3:
            raise ConnectionResetError

    report = new_report(engine.name)
    with pytest.raises(ConnectionResetError):
        Sweep(SingleServer(client), Before(engine, break_off), report).run()
    assert client.dbsize() == 1_000 * KEYS_EACH - report.keys_deleted
    assert report.keys_deleted > 0
    assert not report.complete
    assert report.cleanup_errors == 1
    # and the next one finds all that was left
    again = sweep(client, engine)
    assert again.keys_deleted + report.keys_deleted == 990 * KEYS_EACH
    assert client.dbsize() == 10 * KEYS_EACH
