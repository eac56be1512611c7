"""Orphans: what dead coordinators leave when their heartbeat is gone, reaped at the second sighting."""

import resource
from collections.abc import Callable

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep import orphans
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.orphans import MISSED_SWEEP_S
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import KEYS_EACH, keys_of, write_acceptance_data, write_coordinators
from demo.servers import Server, running_server, wait_until
from tests.support.command import run_command
from tests.support.proxy import Proxy
from tests.support.sweeping import (
    NOTES,
    THRESHOLD_S,
    Before,
    NamedEngine,
    all_keys,
    clean,
    digest,
    new_report,
    pass_time,
    sweep,
    write_heartbeat,
    write_stale,
)


def age_sightings(client: Redis, seconds: int = THRESHOLD_S + 1) -> None:
    """As if the orphans had been sighted that much earlier."""
    client.eval(
        "local sighted = redis.call('HGETALL', KEYS[1])"
        " for n = 1, #sighted, 2 do redis.call('HSET', KEYS[1], sighted[n], sighted[n + 1] - ARGV[1]) end",
        1,
        keys.SIGHTINGS,
        seconds * 1000,
    )


def write_orphans(client: Redis, *coordinators: bytes) -> None:
    """Old coordinators with all keys but the heartbeat."""
    write_coordinators(client, list(coordinators), 700_000)
    client.delete(*map(keys.heartbeat, coordinators))


def test_reaped_at_the_second_sighting(client: Redis, engine: NamedEngine) -> None:
    # Given two orphans, and one that lives
    write_orphans(client, b"a", b"b")
    write_heartbeat(client, b"alive", "active")
    client.mset({"blocking:signal:alive": "1", "blocking:idempotency:a:alive:done:1:2": "1"})
    living = {keys.heartbeat(b"alive"), b"blocking:signal:alive", b"blocking:idempotency:a:alive:done:1:2"}
    before = all_keys(client)
    # When they are seen for the first time, they are noted and stay
    first = sweep(client, engine, orphans="reap")
    assert all_keys(client) == before | NOTES
    assert (first.orphaned_coordinators_found, first.orphaned_coordinators_reaped) == (2, 0)
    # Nor are they reaped before the threshold has passed
    age_sightings(client, THRESHOLD_S - 1)
    assert sweep(client, engine, orphans="reap").keys_deleted == 0
    # Then they go, and their notes with them
    age_sightings(client, 2)
    second = sweep(client, engine, orphans="reap")
    assert all_keys(client) == living
    assert (second.orphaned_coordinators_found, second.orphaned_coordinators_reaped) == (2, 2)
    assert second.orphan_keys_deleted == second.keys_deleted == 2 * (KEYS_EACH - 1)
    assert (second.complete, second.stale_coordinators_found, second.revived_coordinators) == (True, 0, 0)
    assert sweep(client, engine, orphans="reap").orphaned_coordinators_found == 0


def test_report_deletes_and_notes_nothing_and_counts_right(client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, 100, 10)
    write_orphans(client, *(b"o%d" % number for number in range(7)))
    client.mset({"blocking:idempotency:x:y:done:1:2": "1", "blocking:idempotency:op1:z": "1"})
    before = digest(client)
    report = sweep(client, engine, dry_run=True, orphans="report")
    assert digest(client) == before
    assert report.orphaned_coordinators_found == 7 + 2
    real = sweep(client, engine, orphans="report")
    assert (real.orphaned_coordinators_found, real.orphaned_coordinators_reaped) == (9, 0)
    assert (real.keys_deleted, real.orphan_keys_deleted) == (90 * KEYS_EACH, 0)
    assert client.dbsize() == 10 * KEYS_EACH + 7 * (KEYS_EACH - 1) + 2


def test_off_does_not_look(client: Redis, engine: NamedEngine) -> None:
    write_orphans(client, b"a")
    client.config_resetstat()
    assert sweep(client, engine, orphans="off").orphaned_coordinators_found == 0
    assert client.info("commandstats")["cmdstat_scan"]["calls"] == 1


def test_a_dry_run_says_what_would_go_and_writes_nothing(client: Redis, engine: NamedEngine) -> None:
    write_orphans(client, b"a", b"b")
    sweep(client, engine, orphans="reap")
    age_sightings(client)
    write_orphans(client, b"new")
    before = digest(client)
    report = sweep(client, engine, dry_run=True, orphans="reap")
    assert digest(client) == before
    assert (report.orphaned_coordinators_found, report.orphaned_coordinators_reaped) == (3, 2)
    assert report.orphan_keys_deleted == 2 * (KEYS_EACH - 1)


def test_a_starting_coordinator_loses_nothing(client: Redis, engine: NamedEngine) -> None:
    # Given a coordinator that writes its signal and activity first, and is swept before its heartbeat
    now_ms = server_time_ms(client)
    client.mset({keys.signal(b"a"): "1", keys.activity(b"a"): now_ms})
    assert sweep(client, engine, orphans="reap").orphaned_coordinators_found == 1
    write_heartbeat(client, b"a", "active")
    sweep(client, engine, orphans="reap")
    assert not client.exists(keys.SIGHTINGS), "its note is forgotten"
    assert client.exists(keys.heartbeat(b"a"), keys.signal(b"a"), keys.activity(b"a")) == 3


def ripen(client: Redis, engine: NamedEngine) -> None:
    """Note all orphans, long enough ago."""
    sweep(client, engine, orphans="reap")
    age_sightings(client)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda client: write_heartbeat(client, b"a", "active"),
        lambda client: write_heartbeat(client, b"a", "stale"),
        lambda client: client.hset(keys.heartbeat(b"a"), "field", "value"),
        lambda client: client.set(keys.activity(b"a"), server_time_ms(client)),
        lambda client: client.hdel(keys.SIGHTINGS, b"a"),
        lambda client: client.hset(keys.SIGHTINGS, b"a", server_time_ms(client)),
        lambda client: client.hset(keys.SIGHTINGS, b"a", "nonsense"),
    ],
    ids=["beats", "stale beat", "hash for a heartbeat", "works", "forgotten", "noted anew", "odd note"],
)
def test_all_is_checked_again_when_it_is_reaped(
    client: Redis, engine: NamedEngine, meanwhile: Callable[[Redis], object]
) -> None:
    write_orphans(client, b"a", b"b")
    ripen(client, engine)
    report = sweep(client, Before(engine, lambda *_: meanwhile(client)), orphans="reap")
    left = set(keys_of(b"a")) - {keys.heartbeat(b"a")}
    assert all_keys(client) - NOTES - {keys.heartbeat(b"a")} == left
    assert report.orphaned_coordinators_reaped == 1
    assert report.keys_deleted == KEYS_EACH - 1


@pytest.mark.parametrize("mode", ["report", "off"])
def test_whoever_beats_is_forgotten_by_any_sweep(client: Redis, engine: NamedEngine, mode: str) -> None:
    """Reaping by hand now and then, while the beat only reports."""
    write_orphans(client, b"a", b"b")
    ripen(client, engine)
    write_heartbeat(client, b"a", "active")
    sweep(client, engine, orphans=mode)
    client.delete(keys.heartbeat(b"a"))
    report = sweep(client, engine, orphans="reap")
    assert report.orphaned_coordinators_reaped == 1
    assert all_keys(client) == {*keys_of(b"a"), *NOTES} - {keys.heartbeat(b"a")}


def test_two_that_share_a_record_and_were_seen_apart(client: Redis, engine: NamedEngine) -> None:
    record = b"blocking:idempotency:a:b:done:1:2"
    client.mset({keys.signal(b"a"): "1", record: "1"})
    ripen(client, engine)
    client.hset(keys.SIGHTINGS, b"b", server_time_ms(client))
    # a is due and b is not: what is a's alone goes, and the record waits
    first = sweep(client, engine, orphans="reap")
    assert (first.keys_deleted, first.orphaned_coordinators_reaped) == (1, 1)
    assert all_keys(client) - NOTES == {record}
    # Then both are orphans by the record alone
    second = sweep(client, engine, orphans="reap")
    assert (second.keys_deleted, second.orphaned_coordinators_found) == (0, 2)
    assert client.ttl(keys.SIGHTINGS) > 0
    age_sightings(client)
    third = sweep(client, engine, orphans="reap")
    assert (third.keys_deleted, third.orphaned_coordinators_reaped) == (1, 2)
    assert all_keys(client) == set()


def test_a_record_between_a_stale_one_and_an_orphan_that_is_due_goes_in_the_same_pass(
    client: Redis, engine: NamedEngine
) -> None:
    write_orphans(client, b"o")
    ripen(client, engine)
    write_stale(client, b"s")
    # Given messages so young that an unknown party would keep them
    now_ms = server_time_ms(client)
    records = [b"blocking:idempotency:%s:done:1:%d" % (parties, now_ms) for parties in (b"s:o", b"o:s")]
    client.mset({**dict.fromkeys(records, "1"), b"blocking:idempotency:s:x:done:1:%d" % now_ms: "1"})
    report = sweep(client, engine, orphans="reap")
    assert all_keys(client) == {b"blocking:idempotency:s:x:done:1:%d" % now_ms}
    assert report.keys_deleted == 2 * KEYS_EACH - 1 + 2
    assert (report.stale_coordinators_found, report.orphaned_coordinators_reaped) == (1, 1)


def test_a_fresh_activity_keeps(client: Redis, engine: NamedEngine) -> None:
    write_orphans(client, b"a")
    client.set(keys.activity(b"a"), server_time_ms(client))
    ripen(client, engine)
    assert sweep(client, engine, orphans="reap").keys_deleted == 0
    client.set(keys.activity(b"a"), "unreadable")
    assert sweep(client, engine, orphans="reap").keys_deleted == KEYS_EACH - 1


@pytest.mark.parametrize(
    ("meanwhile", "stays"),
    [
        (lambda client: write_heartbeat(client, b"w:1", "active"), True),
        (lambda client: write_heartbeat(client, b"w:1", "unreadable"), True),
        (lambda client: client.set(keys.activity(b"w:1"), server_time_ms(client)), True),
        (lambda client: client.set(keys.signal(b"w:1"), "1"), True),
        (lambda _client: None, False),
    ],
    ids=["beats", "unreadable", "works only", "has a signal only", "nobody knows"],
)
def test_an_ack_waits_for_all_that_are_known(
    client: Redis, engine: NamedEngine, meanwhile: Callable[[Redis], object], stays: bool
) -> None:
    # Given an orphan that is due, and an ack that may be another's
    client.mset({"blocking:ack:w:1:stop": "1", "blocking:signal:w": "1"})
    ripen(client, engine)
    meanwhile(client)
    sweep(client, engine, orphans="reap")
    assert client.exists("blocking:ack:w:1:stop") == stays
    assert not client.exists("blocking:signal:w")


@pytest.mark.parametrize("orphans", ["report", "reap"])
def test_an_ack_may_be_of_the_shorter_id(client: Redis, engine: NamedEngine, orphans: str) -> None:
    """The heartbeat of ``team`` has expired, and it is at work; the longer id is stale, or a due orphan."""
    write_stale(client, b"team:40", b"team:41")
    client.delete(keys.heartbeat(b"team:41"))
    client.hset(keys.SIGHTINGS, "team:41", server_time_ms(client) - 2_000_000)
    client.set(keys.activity(b"team"), server_time_ms(client))
    acks = {key for key in all_keys(client) if key.startswith(keys.ACK)}
    assert len(acks) == 4
    sweep(client, engine, orphans=orphans)
    assert acks <= all_keys(client)
    assert not client.exists(keys.heartbeat(b"team:40"))


def test_one_at_work_keeps_what_looks_like_anothers(client: Redis, engine: NamedEngine) -> None:
    """Its heartbeat has expired, and the part of its id before a colon is the id of somebody stale."""
    write_stale(client, b"team", b"w")
    write_stale(client, b"team:40")
    client.delete(keys.heartbeat(b"team:40"))
    client.set(keys.activity(b"team:40"), server_time_ms(client))
    old = b":done:1:%d" % (server_time_ms(client) - 700_000)
    records = (b"team:40:w", b"w:team:40")
    client.mset({keys.IDEMPOTENCY + parties + old: "1" for parties in records})
    sweep(client, engine, orphans="report")
    left = {key for key in all_keys(client) if b"team:40" in key}
    assert left == {*keys_of(b"team:40"), *(keys.IDEMPOTENCY + parties + old for parties in records)} - {
        keys.heartbeat(b"team:40")
    }
    assert all_keys(client) == left


@pytest.mark.parametrize(
    ("others", "gone"),
    [
        ([], True),
        ([b"blocking:heartbeat:a"], False),
        ([b"blocking:heartbeat:b"], False),
        ([b"blocking:heartbeat:done"], True),  # the type owns nothing
        ([b"blocking:heartbeat:1", b"blocking:heartbeat:2"], True),
        ([b"blocking:heartbeat:a:b"], False),
    ],
)
def test_a_message_that_only_idempotency_names(
    client: Redis, engine: NamedEngine, others: list[bytes], gone: bool
) -> None:
    client.mset({b"blocking:idempotency:a:b:done:1:2": "1", b"blocking:idempotency:op1:a": "1"})
    ripen(client, engine)
    for heartbeat in others:
        write_heartbeat(client, heartbeat.removeprefix(keys.HEARTBEAT), "active")
    sweep(client, engine, orphans="reap")
    assert client.exists("blocking:idempotency:a:b:done:1:2") == (not gone)


def test_a_record_of_another_shape_alone_names_nobody(client: Redis, engine: NamedEngine) -> None:
    client.set("blocking:idempotency:op1:a", "1")
    assert sweep(client, engine, orphans="reap").orphaned_coordinators_found == 0
    client.set(keys.signal(b"a"), "1")
    ripen(client, engine)
    sweep(client, engine, orphans="reap")
    assert all_keys(client) == set()


def test_an_orphan_with_20000_acks_goes_in_parts(client: Redis, engine: NamedEngine) -> None:
    write_orphans(client, b"big")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(20_000)})
    ripen(client, engine)
    parts = Before(engine, lambda *_: None)
    report = sweep(client, parts, orphans="reap")
    assert all_keys(client) == set()
    assert report.orphan_keys_deleted == 20_000 + KEYS_EACH - 1
    assert report.orphaned_coordinators_reaped == 1
    assert len(parts.batches) > 20


def test_notes_are_bounded_and_expire(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "MAX_SIGHTINGS", 10)
    client.mset({b"blocking:signal:o%d" % number: "1" for number in range(25)})
    sweep(client, engine, orphans="reap")
    assert client.hlen(keys.SIGHTINGS) == 10
    assert THRESHOLD_S < client.ttl(keys.SIGHTINGS) <= MISSED_SWEEP_S + 2 * (THRESHOLD_S + 300)
    # Whoever had to wait gets its turn
    for left in (15, 5, 0):
        age_sightings(client)
        sweep(client, engine, orphans="reap")
        sweep(client, engine, orphans="reap")
        assert client.dbsize() == left + len(NOTES) * (left > 0)


def test_what_a_stale_coordinator_owns_is_no_orphans(client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, 20, 10)
    now_ms = server_time_ms(client)
    for age_ms in (700_000, 100_000):
        client.set(b"blocking:idempotency:test-coordinator-1:unknown:done:1:%d" % (now_ms - age_ms), "1")
    report = sweep(client, engine, orphans="report")
    assert report.orphaned_coordinators_found == 0
    assert report.keys_deleted == 10 * KEYS_EACH + 1
    # the young message is nobody's but the unknown's once that one is gone
    assert sweep(client, engine, orphans="report").orphaned_coordinators_found == 2


@pytest.mark.parametrize("make", [LuaEngine, PythonEngine])
def test_the_writers_own_pattern(client: Redis, make: Callable[[Redis], NamedEngine]) -> None:
    """Heartbeats with a TTL below the threshold, other keys without; sweeps all the time."""
    engine = make(client)
    threshold_s = 2
    dying = [b"dying-%d" % number for number in range(1_000)]
    living = [b"living-%d" % number for number in range(100)]
    write_coordinators(client, dying + living, 0)
    with client.pipeline() as pipe:
        for id_ in dying:
            pipe.pexpire(keys.heartbeat(id_), 1_000)
        pipe.execute()
    first_seen_ms: list[int] = []
    deleted = 0

    def gone() -> bool:
        nonlocal deleted
        now_ms = server_time_ms(client)
        client.mset({keys.heartbeat(id_): now_ms for id_ in living})
        report = sweep(client, engine, threshold_s=threshold_s, orphans="reap")
        if report.orphaned_coordinators_found and not first_seen_ms:
            first_seen_ms.append(now_ms)
            assert report.keys_deleted == 0
        if report.keys_deleted:
            assert server_time_ms(client) - first_seen_ms[0] > threshold_s * 1000
        deleted += report.keys_deleted
        return client.dbsize() == 100 * KEYS_EACH

    wait_until(gone, "the orphans are gone", seconds=20)
    assert deleted == 1_000 * (KEYS_EACH - 1)
    assert all_keys(client) == {key for id_ in living for key in keys_of(id_)}


@pytest.mark.slow
def test_a_million_related_keys_in_bounded_memory() -> None:
    with running_server() as server, server.client() as client:
        script = "for n = ARGV[1], ARGV[1] + 99999 do redis.call('SET', {} .. n, '1') end"
        for start in range(0, 500_000, 100_000):
            client.eval(script.format("'blocking:signal:coordinator-'"), 0, start)
            client.eval(script.format("'blocking:ack:worker-' .. n .. ':'"), 0, start)
        assert client.dbsize() == 1_000_000
        run_command(server.url, "--orphans", "reap", "--json").check_returncode()
        # Each sweep reaps those that the one before could note, by either engine
        for left, more in ((900_000, []), (800_000, ["--fallback"])):
            age_sightings(client)
            ended = run_command(server.url, "--orphans", "reap", "--force", "--json", *more)
            assert f'"orphanedCoordinatorsFound": {left + 100_000}' in ended.stdout
            assert '"orphanedCoordinatorsReaped": 100000' in ended.stdout
            assert client.dbsize() == left + len(NOTES)  # of those that had to wait
        # The largest of all children that this process has waited for, in KiB.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 500_000


def test_whoever_was_reaped_by_an_interrupted_sweep_is_sighted_anew(
    client: Redis, engine: NamedEngine
) -> None:
    ids = [b"orphan-%d" % number for number in range(1_000)]
    write_orphans(client, *ids)
    ripen(client, engine)

    def interrupt(number: int, _batch: Batch) -> None:
        if number == 4:
            raise KeyboardInterrupt

    report = new_report(engine.name)
    with pytest.raises(KeyboardInterrupt):
        clean(SingleServer(client), Before(engine, interrupt), report, orphans="reap")
    assert (report.orphaned_coordinators_found, report.orphaned_coordinators_reaped > 0) == (1_000, True)
    # Given one that starts anew, and has no heartbeat yet
    reaped = next(id_ for id_ in ids if not client.exists(keys.signal(id_)))
    client.set(keys.signal(reaped), "1")
    sweep(client, engine, orphans="reap")
    assert client.exists(keys.signal(reaped))


@pytest.mark.parametrize(("age_ms", "goes"), [(700_000, True), (1_000, False)])
def test_a_due_orphan_of_which_only_a_message_with_a_stranger_is_left(
    client: Redis, engine: NamedEngine, age_ms: int, goes: bool
) -> None:
    now_ms = server_time_ms(client)
    record = b"blocking:idempotency:orphan:stranger:done:1:%d" % (now_ms - age_ms)
    client.set(record, "1")
    client.hset(keys.SIGHTINGS, "orphan", now_ms - 2_000_000)
    report = sweep(client, engine, orphans="reap")
    assert report.orphaned_coordinators_found == 2
    assert client.exists(record) == (not goes)
    # who loses nothing was not reaped, and is not sighted anew
    assert report.orphaned_coordinators_reaped == goes
    assert client.hexists(keys.SIGHTINGS, "orphan") == (not goes)


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_orphan_all_of_whose_keys_may_be_anothers_is_not_reaped(
    client: Redis, engine: NamedEngine, dry_run: bool
) -> None:
    now_ms = server_time_ms(client)
    client.mset({b"blocking:ack:a:1:s": "1", keys.signal(b"a:1"): "1"})
    client.mset(
        {b"blocking:idempotency:b:c:done:1:%d" % (now_ms - 700_000): "1", keys.activity(b"c"): now_ms}
    )
    client.hset(keys.SIGHTINGS, mapping={"a": now_ms - 2_000_000, "b": now_ms - 2_000_000})
    report = sweep(client, engine, orphans="reap", dry_run=dry_run)
    assert (report.orphaned_coordinators_found, report.orphaned_coordinators_reaped) == (4, 0)
    assert (report.keys_deleted, report.complete) == (0, True)


def test_a_heartbeat_that_was_not_there_at_the_sighting_is_a_sign_of_life(
    client: Redis, engine: NamedEngine
) -> None:
    """Also one of a clock that is behind."""
    write_orphans(client, b"a")
    ripen(client, engine)
    write_heartbeat(client, b"a", "stale")
    write_stale(client, b"another")
    report = sweep(client, engine, orphans="reap")
    assert (report.keys_deleted, report.revived_coordinators, report.complete) == (KEYS_EACH, 1, True)
    assert all_keys(client) - NOTES == set(keys_of(b"a"))
    # Then it is kept as long as it is written, and counts as any other once it was not for the threshold
    for passed_s in (0, THRESHOLD_S - 5):
        pass_time(client, passed_s)
        assert sweep(client, engine, orphans="reap").revived_coordinators == 1
    client.set(keys.heartbeat(b"a"), server_time_ms(client) - 650_000)
    for passed_s in (5, THRESHOLD_S - 5):
        pass_time(client, passed_s)
        assert sweep(client, engine, orphans="reap").keys_deleted == 0
    pass_time(client, 5)
    assert sweep(client, engine, orphans="reap").keys_deleted == KEYS_EACH
    assert all_keys(client) == set()


def test_whoever_beats_is_forgotten_by_a_sweep_that_is_held_or_fails(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    for fails in (False, True):
        client.flushall()
        orphans = [b"o%d" % number for number in range(40)]
        write_orphans(client, *orphans)
        ripen(client, engine)
        write_heartbeat(client, orphans[0], "active" if fails else "stale")
        with Proxy(server.port) as proxy:
            if fails:
                proxy.cut_at(b"EVALSHA" if engine.name == "lua" else b"UNLINK", 1)
            options = Options(
                address=parse(proxy.url), engine=engine.name, orphans="reap", restart_grace_s=0, dry_run=False
            )
            if fails:
                with pytest.raises(RedisError):
                    Sweep(options).run()
            else:
                assert Sweep(options).run().held
        assert not client.hexists(keys.SIGHTINGS, orphans[0])


def test_a_connection_that_is_lost_with_the_sightings_ends_the_sweep(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    """Or a young record of a stale one and an orphan would be left when the stale one goes."""
    write_stale(client, b"stale")
    write_orphans(client, b"orphan")
    client.set(b"blocking:idempotency:stale:orphan:done:1:%d" % server_time_ms(client), "1")
    ripen(client, engine)
    write_stale(client, b"stale")
    before = all_keys(client)
    with Proxy(server.port) as proxy:
        proxy.cut_at(b"HSCAN", 1)
        options = Options(parse(proxy.url), engine=engine.name, orphans="reap", restart_grace_s=0)
        with pytest.raises(RedisError):
            Sweep(options).run()
    assert all_keys(client) == before


def test_the_reaped_are_forgotten_batch_by_batch(client: Redis, engine: NamedEngine) -> None:
    """A sweep that is killed leaves no sighting by which one that starts anew would be judged."""
    orphans = [b"o%d" % number for number in range(300)]
    write_orphans(client, *orphans)
    ripen(client, engine)

    def look(number: int, _batch: Batch) -> None:
        # all but those under way have no sighting any more
        gone = [id_ for id_ in orphans if not client.exists(keys.signal(id_))]
        sighted = sum(map(bool, client.hmget(keys.SIGHTINGS, gone))) if gone else 0
        seen.append((number, len(gone), sighted))

    seen: list[tuple[int, int, int]] = []
    watched = Before(engine, look)
    watched.in_flight = 1
    assert sweep(client, watched, orphans="reap").orphaned_coordinators_reaped == 300
    assert len(seen) > 3
    assert seen[-1][1] > 0
    assert {sighted for _number, _gone, sighted in seen} == {0}
