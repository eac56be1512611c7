"""Values that are still those by which a coordinator was found stale need no reading; all others do."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch, Snapshot
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import ACTIVE, REAPED, Engine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep
from demo.servers import wait_until
from tests.sweeping import (
    Before,
    all_keys,
    heartbeat_values,
    new_report,
    reap,
    sweep,
    write_heartbeat,
)

DAY_MS = 86_400_000


def test_what_has_not_changed_is_not_read_again(client: Redis, engine: Engine) -> None:
    # Given an active coordinator, and the claim that it was found stale by just this value
    active = heartbeat_values(server_time_ms(client))["active"].encode()
    client.set(keys.heartbeat(b"a"), active)
    snapshot = Snapshot(1, {b"a": (active, b"")})
    assert reap(engine, Batch(own={b"a": []}, snapshot=snapshot), dry_run=True).coordinators == [REAPED]
    # Then one word more and it is read
    assert reap(engine, Batch(own={b"a": []}), dry_run=True).coordinators == [ACTIVE]
    client.append(keys.heartbeat(b"a"), " ")
    assert reap(engine, Batch(own={b"a": []}, snapshot=snapshot), dry_run=True).coordinators == [ACTIVE]


def test_a_clock_that_went_back_has_all_read_again(client: Redis, engine: Engine) -> None:
    now_ms = server_time_ms(client)
    active = heartbeat_values(now_ms)["active"].encode()
    client.set(keys.heartbeat(b"a"), active)
    snapshot = Snapshot(now_ms + 60_000, {b"a": (active, b"")})
    assert reap(engine, Batch(own={b"a": []}, snapshot=snapshot), dry_run=True).coordinators == [ACTIVE]


STALE = st.sampled_from([b"T", b"T\n", b'{"timestamp": T}', b'{"timestamp":\nT}', b'\n{"timestamp": T}\n'])
NOW = STALE | st.sampled_from([b"", b"\n", b'{"timestamp": N}', b"N\n", b"N"])


@given(found=st.lists(STALE, min_size=1, max_size=4), now=st.lists(NOW, min_size=8, max_size=8))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_changes_no_verdict(client: Redis, found: list[bytes], now: list[bytes]) -> None:
    """Lines within values may make the lot look like another; the verdicts are those without it."""
    now_ms = server_time_ms(client)

    def fill(value: bytes) -> bytes:
        return value.replace(b"T", b"%d" % (now_ms - 700_000)).replace(b"N", b"%d" % (now_ms - 1_000))

    client.flushall()
    ids = [b"%d" % number for number in range(len(found))]
    for id_, beat, activity in zip(ids, now, now[4:], strict=False):
        client.set(keys.heartbeat(id_), fill(beat))
        if activity:
            client.set(keys.activity(id_), fill(activity))
    values = {id_: (fill(value), b"") for id_, value in zip(ids, found, strict=True)}
    batch = Batch(own={id_: [] for id_ in ids})
    for engine in (LuaEngine(client), PythonEngine(client)):
        plain = reap(engine, batch, dry_run=True)
        batch.snapshot = Snapshot(now_ms, values)
        assert reap(engine, batch, dry_run=True) == plain
        batch.snapshot = Snapshot()


FAR_MS = 10**15
OLD_MS = 1_760_000_000_000


@pytest.mark.parametrize(
    "value",
    [str(FAR_MS), "not json", '"1760000000000"', f'{{"timestamp": {OLD_MS}, "lastActivity": {FAR_MS}}}'],
)
def test_what_may_say_something_else_later_is_read_again(client: Redis, engine: Engine, value: str) -> None:
    for id_ in (b"a", b"b", b"c"):
        write_heartbeat(client, id_, "stale")
    client.set(keys.activity(b"a"), value)
    if "timestamp" in value:
        client.set(keys.heartbeat(b"b"), value)
    seen = Before(engine, lambda *_: None)
    assert sweep(client, seen).keys_deleted == 4
    (batch,) = seen.batches
    assert set(batch.snapshot.values) == ({b"c"} if "timestamp" in value else {b"b", b"c"})


@pytest.mark.parametrize("spell", [keys.heartbeat, keys.activity])
@pytest.mark.parametrize("form", ["%d", '{"timestamp": 1760000000000, "lastActivity": %d}'])
def test_a_time_of_tomorrow_counts_once_it_has_come(
    client: Redis, engine: Engine, spell: Callable[[bytes], bytes], form: str
) -> None:
    # Given a value with a time that is a little too far ahead to be believed when the sweep looks
    write_heartbeat(client, b"a", "stale")
    far_ms = server_time_ms(client) + DAY_MS + 1_000
    client.set(spell(b"a"), form % far_ms)

    def wait(_number: int, _batch: Batch) -> None:
        wait_until(lambda: server_time_ms(client) > far_ms - DAY_MS, "its time has come")

    before = all_keys(client)
    report = sweep(client, Before(engine, wait))
    # Then it is believed, for now it may be a clock that is a day ahead
    assert (report.keys_deleted, all_keys(client)) == (0, before)


class SteppedBack(SingleServer):
    """A server whose clock was an hour ahead when the heartbeats were read, and not any more."""

    def read_each(self, lots: Iterable[list[bytes]]) -> Iterator[tuple[int, dict[bytes, bytes | None]]]:
        for now_ms, values in super().read_each(lots):
            ahead = any(name.startswith(keys.HEARTBEAT) for name in values)
            yield now_ms + ahead * 3_600_000, values


def test_a_clock_that_goes_back_between_two_readings(client: Redis, engine: Engine) -> None:
    write_heartbeat(client, b"a", "active")
    report = new_report(engine.name)
    Sweep(SteppedBack(client), engine, report).run()
    assert (report.stale_coordinators_found, report.revived_coordinators) == (1, 1)
    assert client.exists(keys.heartbeat(b"a"))
