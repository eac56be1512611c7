"""The staleness rule: the table, its edges, and fast reading that reads what slow reading does."""

import pytest
from hypothesis import given, settings

from cleanup_tasks.rules.staleness import (
    EARLIEST_MS,
    EXPLANATIONS,
    FUTURE_MS,
    MAX_BYTES,
    MAX_DEPTH,
    State,
    _is_plain,
    _read,
    _read_fast,
    is_older,
    judge,
    judge_values,
    oldest_active_ms,
    reason_of,
)
from tests.support.cases import BOUNDARIES, STALENESS, values_of
from tests.support.documents import SPACES, every_oddity, odd_values, with_times

NOW_MS = 1_800_000_000_123
THRESHOLD_S = 600
ACTIVE, FADING, AHEAD, STALE, UNREADABLE = State


def verdict(value: bytes) -> State:
    return judge(with_times(value, NOW_MS), None, NOW_MS, THRESHOLD_S)


def coarse(state: State) -> str:
    """As the tables spell it."""
    return "active" if state.is_active else state.value


def assert_fast_is_slow(values: list[bytes]) -> int:
    """What the fast reader reads, if anything, is what the slow one reads; returns how often it did."""
    plain = filter(_is_plain, values)
    fast = {value: read for value in plain if (read := _read_fast(value)) is not None}
    assert [value for value, read in fast.items() if read != _read(value)] == []
    return len(fast)


def test_the_table() -> None:
    wrong = [
        row["name"]
        for row in STALENESS
        if coarse(judge(*values_of(row, NOW_MS), NOW_MS, THRESHOLD_S)) != row["verdict"]
    ]
    assert wrong == []


def test_the_tables_boundaries() -> None:
    wrong = [
        row["name"]
        for row in BOUNDARIES
        if coarse(judge(str(row["time_ms"]).encode(), None, row["now_ms"], row["threshold_s"]))
        != row["verdict"]
    ]
    assert wrong == []


@given(values=odd_values())
@settings(max_examples=80, deadline=None)
def test_odd_documents_are_read_fast_as_slowly(values: list[bytes]) -> None:
    assert_fast_is_slow([with_times(value, NOW_MS) for value in values])


def test_every_oddity_is_read_fast_as_slowly() -> None:
    values = [with_times(value, NOW_MS) for value in every_oddity()]
    assert assert_fast_is_slow(values) > len(values) / 10
    # Some are JSON after all, others are not: the table does not just say "unreadable"
    assert set(judge_values(values, NOW_MS, THRESHOLD_S)) == {STALE, UNREADABLE}


@pytest.mark.parametrize(
    "document",
    [
        '{"coordinatorId":"c","lastHeartbeat":%d,"sequence":4,"iteration":0}',
        '{"coordinatorId": "c", "timestamp": %d, "status": "alive"}',
        '{"lastActivity":%d,"metadata":{"a":[1,2.5,null,true,{"timestamp":"no"}],"b":"köln"},"timestamp":1.5}',
    ],
)
def test_what_real_writers_write_is_read_fast(document: str) -> None:
    value = (document % (NOW_MS - 700_000)).encode()
    assert _is_plain(value)
    assert _read_fast(value) == _read(value)
    assert _read_fast(value) is not None
    assert verdict(value) is STALE


@given(values=odd_values(), activities=odd_values())
@settings(max_examples=40, deadline=None)
def test_many_at_once_are_judged_as_one_by_one(values: list[bytes], activities: list[bytes]) -> None:
    beats: list[bytes | None] = [None, *(with_times(value, NOW_MS) for value in values)]
    works: list[bytes | None] = [None, *(with_times(value, NOW_MS) for value in activities)]
    singly = [judge(value, None, NOW_MS, THRESHOLD_S) for value in beats]
    assert judge_values(beats, NOW_MS, THRESHOLD_S) == singly
    # A fresh activity saves the stale, and nothing else changes a verdict
    for beat, work in zip(beats, works, strict=False):
        alone, worked = (judge(value, None, NOW_MS, THRESHOLD_S) for value in (beat, work))
        saved = alone is STALE and worked.is_active
        assert judge(beat, work, NOW_MS, THRESHOLD_S) is (worked if saved else alone)


@pytest.mark.parametrize("form", ["%s", '{"timestamp": %s}', '{"x": {}, "lastActivity": %s, "y": "\\u0041"}'])
@pytest.mark.parametrize("now_ms", [1_800_000_000_000, 1_800_000_000_999])
def test_the_edges_of_time(form: str, now_ms: int) -> None:
    second_ms = 1_800_000_000_000
    expected = {
        str(second_ms - 540_000): ACTIVE,
        str(second_ms - 540_001): FADING,
        str(second_ms - 600_000): FADING,
        str(second_ms - 600_001): STALE,
        f"{second_ms - 600_001}.999": STALE,
        str(now_ms + 59_999): ACTIVE,
        str(now_ms + 60_000): AHEAD,
        str(now_ms + FUTURE_MS): AHEAD,
        f"{now_ms + FUTURE_MS}.5": UNREADABLE,
        str(now_ms + FUTURE_MS + 1): UNREADABLE,
        str(EARLIEST_MS): STALE,
        str(EARLIEST_MS - 1): UNREADABLE,
        f"{EARLIEST_MS - 1}.999": UNREADABLE,
        "1e12": STALE,
        f"-{now_ms}": UNREADABLE,
        "1e400": UNREADABLE,
        "-1e400": UNREADABLE,
    }
    values = [(form % number).encode() for number in expected]
    found = judge_values(values, now_ms, THRESHOLD_S)
    assert dict(zip(expected, found, strict=True)) == expected


def test_older_than_the_threshold_is_stale() -> None:
    """The questions that others ask about a time give the rule's answer."""
    for time_ms in range(NOW_MS - 603_000, NOW_MS - 597_000, 37):
        stale = judge(b"%d" % time_ms, None, NOW_MS, THRESHOLD_S) is STALE
        assert is_older(time_ms, NOW_MS, THRESHOLD_S) == stale
        assert (time_ms < oldest_active_ms(NOW_MS, THRESHOLD_S)) == stale
    for time_ms in (EARLIEST_MS - 1, EARLIEST_MS, NOW_MS, NOW_MS + FUTURE_MS, NOW_MS + FUTURE_MS + 1):
        stale = judge(b"%d" % time_ms, None, NOW_MS, THRESHOLD_S) is STALE
        assert (EARLIEST_MS <= time_ms < oldest_active_ms(NOW_MS, THRESHOLD_S)) == stale


def test_which_white_space_json_has() -> None:
    values = {space: b'%s{%s"timestamp"%s:$T-700000$}%s' % ((space.encode(),) * 4) for space in SPACES}
    assert [space for space, value in values.items() if verdict(value) is STALE] == [
        "",
        " ",
        "\n",
        "\t",
        "\r",
    ]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"x":', "}")])
def test_how_deep_brackets_may_be(opening: str, closing: str) -> None:
    depths = [1, 50, 98, 99, 100, 101, 999, 1200, 20_000]
    nested = {depth: (opening * depth + "1" + closing * depth).encode() for depth in depths}
    found = {depth: verdict(b'{"timestamp":$T-700000$,"y":%s}' % text) for depth, text in nested.items()}
    assert found == {depth: STALE if depth + 1 <= MAX_DEPTH else UNREADABLE for depth in depths}


def test_how_long_a_value_may_be() -> None:
    value = b'{"timestamp":%d,"y":"%%s"}' % (NOW_MS - 700_000)
    room = MAX_BYTES - len(value % b"")
    assert verdict(value % (b"x" * room)) is STALE
    assert verdict(value % (b"x" * (room + 1))) is UNREADABLE


#: Values that yield no time, by the reason.
UNREADABLE_VALUES: dict[str, list[bytes | None]] = {
    "iso_8601": [
        b'{"timestamp":"2026-11-25T20:20:16Z"}',
        b'{"lastHeartbeat":"2026-11-25 20:20:16.123+01:00"}',
        b'"2026-11-25T20:20:16Z"',
        b"2026-11-25T20:20:16Z",
        b"2026-11-25",
    ],
    "text_number": [b'{"timestamp":"%d"}' % NOW_MS, b'"%d"' % NOW_MS, b'{"lastActivity":" 1.5"}'],
    "seconds": [b'{"timestamp":%d}' % (NOW_MS // 1000), b"%d" % (NOW_MS // 1000), b"1800000000.123"],
    "microseconds": [b'{"timestamp":%d000}' % NOW_MS, b"%d000000" % NOW_MS],
    "future": [b"%d" % (NOW_MS + FUTURE_MS + 1), b'{"timestamp":%d}' % (2 * NOW_MS)],
    "other_time": [
        b'{"timestamp":null}',
        b'{"timestamp":true}',
        b'{"timestamp":[%d]}' % NOW_MS,
        b'{"timestamp":"now"}',
        b'{"timestamp":0}',
        b'{"timestamp":-1}',
        b"1e400",
        b'"alive"',
    ],
    "no_time": [b"{}", b"[]", b"null", b"true", b'{"time":%d}' % NOW_MS, b'{"x":{"timestamp":%d}}' % NOW_MS],
    "not_json": [b"alive", b"{", b'{"timestamp":%d' % NOW_MS, b"\0", b"\xff", b"[" * 200 + b"]" * 200],
    "empty": [b""],
    "too_long": [b"x" * (MAX_BYTES + 1)],
    "no_string": [None],
}


def test_why_a_value_is_unreadable() -> None:
    assert set(UNREADABLE_VALUES) == set(EXPLANATIONS)
    found = {
        value: (judge(value, None, NOW_MS, THRESHOLD_S), reason_of(value, NOW_MS))
        for values in UNREADABLE_VALUES.values()
        for value in values
    }
    expected = {
        value: (UNREADABLE, reason) for reason, values in UNREADABLE_VALUES.items() for value in values
    }
    assert found == expected


@given(values=odd_values())
@settings(max_examples=80, deadline=None)
def test_whatever_is_unreadable_has_a_reason(values: list[bytes]) -> None:
    for value in (with_times(value, NOW_MS) for value in values):
        if judge(value, None, NOW_MS, THRESHOLD_S) is UNREADABLE:
            assert reason_of(value, NOW_MS) in EXPLANATIONS


def test_many_brackets_are_not_deep() -> None:
    assert verdict(b'{"timestamp":$T-700000$,"y":[%s]}' % b",".join([b"[[]]"] * 500)) is STALE
    assert verdict(b'{"timestamp":$T-700000$,"y":"%s"}' % (b"[" * 500)) is STALE
