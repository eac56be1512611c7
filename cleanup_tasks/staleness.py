"""The staleness rule, pure. The Lua script holds its twin; the tests run both on the same cases.

A value (heartbeat or activity) yields a time thus: a JSON object the newest of its top-level
``timestamp``, ``lastHeartbeat`` and ``lastActivity`` that is a number; a bare JSON number itself;
anything else none. What the two JSON parsers (cjson and Python's) would read differently is none too.
"""

import json
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

FIELDS = ("timestamp", "lastHeartbeat", "lastActivity")

#: Below this a "time in ms" is a time in seconds, or nonsense (it would be before September 2001).
EARLIEST_MS = 1_000_000_000_000
#: Further ahead than a day is no skewed clock but microseconds, or nonsense.
FUTURE_MS = 86_400_000
#: cjson stops at 1,000 levels and Python where its stack ends; both stop here instead.
MAX_DEPTH = 100
#: A longer value is none: reading it would hold the server, and no heartbeat is that long.
MAX_BYTES = 65_536

_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)", re.DOTALL)
#: Values a line each, and of those that look as most writers write them the time: read without a parser in
#: a tenth of the time, and the same answer.
_USUAL = re.compile(
    rb'^(?:\{"coordinatorId": ?"[^"\\\0\n]{0,1000}", ?'
    rb'"(?:timestamp|lastHeartbeat|lastActivity)": ?([1-9]\d{0,14})\}|.*)$',
    re.MULTILINE,
)
#: Bytes that such a value has at most.
_USUAL_BYTES = 1_100
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


#: As cjson: raw control characters in strings, every number a double.
_DECODER = json.JSONDecoder(strict=False, parse_int=float, parse_float=float, parse_constant=_refuse_constant)


class State(Enum):
    """What a coordinator's heartbeat and activity say."""

    ACTIVE = "active"
    STALE = "stale"
    UNREADABLE = "unreadable"


def time_of(value: bytes | None, now_ms: int) -> float | None:
    """The time in ms since the epoch that a value yields, or None.

    `now_ms` is the server's time; a time a little ahead of it counts as now.
    """
    if value is None:
        return None
    document = _parse(value)
    if not isinstance(document, dict):
        return _plausible(document, now_ms)
    newest = None
    for field in FIELDS:
        time = _plausible(document.get(field), now_ms)
        if time is not None and (newest is None or time > newest):
            newest = time
    return newest


def is_older(time_ms: float, now_ms: int, threshold_s: int) -> bool:
    """Whether a time is more than the threshold ago, in whole seconds, both times rounded down."""
    return now_ms // 1000 - time_ms // 1000 > threshold_s


def judge_value(value: bytes | None, now_ms: int, threshold_s: int) -> State:
    """What one value says."""
    time = time_of(value, now_ms)
    if time is None:
        return State.UNREADABLE
    return State.STALE if is_older(time, now_ms, threshold_s) else State.ACTIVE


def usual_times(values: Sequence[bytes | None]) -> list[bytes]:
    """For each value its only time, as digits, if it looks as most writers write it; else nothing.

    Such a value, once it is stale, stays so. Another may name a second time, too far ahead to count yet.
    """
    lines = [value if value and len(value) <= _USUAL_BYTES else b"" for value in values]
    times: list[bytes] = _USUAL.findall(b"\n".join(lines)) if values else []
    return times if len(times) == len(values) else [b""] * len(values)  # one has lines itself


def judge_values(
    values: Sequence[bytes | None], times: Sequence[bytes], now_ms: int, threshold_s: int
) -> list[State]:
    """What each of many values says; `times` are their `usual_times`, which save most of the work."""
    oldest_active_ms = (now_ms // 1000 - threshold_s) * 1000  # as `is_older` divides
    latest_ms = now_ms + FUTURE_MS
    active, stale, unreadable = State.ACTIVE, State.STALE, State.UNREADABLE
    return [
        (active if time >= oldest_active_ms else stale)
        if EARLIEST_MS <= (time := int(digits or 0)) <= latest_ms
        else unreadable
        if digits
        else judge_value(value, now_ms, threshold_s)
        for value, digits in zip(values, times, strict=True)
    ]


def judge(heartbeat: bytes | None, activity: bytes | None, now_ms: int, threshold_s: int) -> State:
    """What a coordinator is, by its two values; a fresh activity revives a stale heartbeat.

    None stands for a key that is no string (or, for the activity, is not there).
    """
    state = judge_value(heartbeat, now_ms, threshold_s)
    if state is State.STALE and judge_value(activity, now_ms, threshold_s) is State.ACTIVE:
        return State.ACTIVE
    return state


def is_orphan_ripe(activity: bytes | None, first_seen: bytes | None, now_ms: int, threshold_s: int) -> bool:
    """Whether a coordinator without heartbeat may go: noted, and not active, for longer than the threshold.

    `first_seen` is the note of its first sighting, ms as digits; None: it has none.
    """
    if first_seen is None or not first_seen.isdigit() or not is_older(int(first_seen), now_ms, threshold_s):
        return False
    return judge_value(activity, now_ms, threshold_s) is not State.ACTIVE


def _plausible(number: Any, now_ms: int) -> float | None:
    """The number as a time, unless it can't be one; all JSON numbers arrive here as floats."""
    if type(number) is not float or not EARLIEST_MS <= number <= now_ms + FUTURE_MS:
        return None
    return min(number, float(now_ms))


def _parse(value: bytes) -> Any:
    """The JSON document in a value, or None where there is none that both parsers agree on."""
    if len(value) > MAX_BYTES or b"\0" in value:
        return None
    # Latin-1 maps every byte, so bytes that are no UTF-8 are harmless inside strings, as for cjson.
    text = value.decode("latin-1").strip(" \t\n\r")
    if (len(text) > MAX_DEPTH and _too_deep(text)) or ("\\u" in text and _lone_surrogate(text)):
        return None
    try:
        document, end = _DECODER.raw_decode(text)
    except ValueError:
        return None
    return document if end == len(text) else None


def _too_deep(document: str) -> bool:
    if document.count("[") + document.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for character in _STRINGS.sub("", document):
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _lone_surrogate(document: str) -> bool:
    return any(escape[1] for escape in _ESCAPE.finditer(document))
