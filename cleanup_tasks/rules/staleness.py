"""The staleness rule, pure. The script for use by hand holds its one twin; tests run both on the same cases.

A value (heartbeat or activity) yields a time thus: a JSON object the newest of its top-level ``timestamp``,
``lastHeartbeat`` and ``lastActivity`` that is a number; a bare JSON number itself; anything else none. What
the parser of Redis's Lua (cjson) would read otherwise is none too.
"""

import json
import re
from bisect import bisect
from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

#: Below this a "time in ms" is a time in seconds, or nonsense (it would be before September 2001).
EARLIEST_MS = 1_000_000_000_000
#: Further ahead than a day is no skewed clock but microseconds, or nonsense.
FUTURE_MS = 86_400_000
#: From so far ahead on somebody's clock is wrong, and the value says little about when it was written.
AHEAD_MS = 60_000
#: Levels of brackets. cjson stops at 1,000 and Python where its stack ends; both stop here instead.
MAX_DEPTH = 100
#: Bytes. A longer value yields no time: no heartbeat is that long.
MAX_BYTES = 65_536


class State(Enum):
    """What a coordinator's heartbeat and activity say."""

    ACTIVE = "active"
    FADING = "fading"  # active still, and silent for more than nine tenths of the threshold
    AHEAD = "ahead"  # active, by a clock that is `AHEAD_MS` ahead or more
    STALE = "stale"
    UNREADABLE = "unreadable"

    @property
    def is_active(self) -> bool:
        """Whether it is a sign of life."""
        return self in (State.ACTIVE, State.FADING, State.AHEAD)


def judge(heartbeat: bytes | None, activity: bytes | None, now_ms: int, threshold_s: int) -> State:
    """What a coordinator is, by both values at once; a fresh activity saves one with a stale heartbeat.

    Args:
        heartbeat: the value, or None for a key that is no string.
        activity: the same, also None where there is none.
        now_ms: the server's time in ms since the epoch.
        threshold_s: the silence in seconds after which a coordinator is stale.
    """
    state, worked = judge_values([heartbeat, activity], now_ms, threshold_s)
    return worked if state is State.STALE and worked.is_active else state


def judge_values(values: Sequence[bytes | None], now_ms: int, threshold_s: int) -> list[State]:
    """What each value says: heartbeats, then the silent ones' activities. Arguments are those of `judge`."""
    active, fading, ahead, stale, unreadable = State
    oldest_ms, fading_ms = (oldest_active_ms(now_ms, s) for s in (threshold_s, threshold_s * 9 // 10))
    begins_ms, states = (oldest_ms, fading_ms, now_ms + AHEAD_MS), (stale, fading, active, ahead)
    times = times_of(values, now_ms)
    return [unreadable if time is None else states[bisect(begins_ms, time)] for time in times]


def oldest_active_ms(now_ms: int, threshold_s: int) -> int:
    """The oldest time that is not stale.

    Stale means more than the threshold ago in whole seconds, where now and the time are both rounded down.
    """
    return (now_ms // 1000 - threshold_s) * 1000


def is_older(time_ms: float, now_ms: int, threshold_s: int) -> bool:
    """Whether a time is more than the threshold ago."""
    return time_ms < oldest_active_ms(now_ms, threshold_s)


def times_of(values: Sequence[bytes | None], now_ms: int) -> list[float | None]:
    """The time in ms since the epoch that each value yields, perhaps a little ahead of now, or None."""
    latest_ms = now_ms + FUTURE_MS
    times: list[float | None] = []
    are_plain = _is_plain(b"".join(filter(None, values)))
    for value in values:
        read = _read_fast(value) if value and (are_plain or _is_plain(value)) else None
        read = read or (_read(value) if value else None) or _NO_TIMES
        newest = max(read.timestamp, read.lastHeartbeat, read.lastActivity)
        if newest > latest_ms:
            newest = max((number for number in astuple(read) if number <= latest_ms), default=0.0)
        times.append(newest if newest >= EARLIEST_MS else None)
    return times


class _Times(msgspec.Struct, gc=False):
    """The fields of a value that name a time, where they are numbers; others are no time."""

    timestamp: float = 0.0
    lastHeartbeat: float = 0.0  # noqa: N815, the writers' name
    lastActivity: float = 0.0  # noqa: N815


_NO_TIMES = _Times()

#: The names of the fields that may tell a time.
TIME_FIELDS = _Times.__struct_fields__
_FAST = msgspec.json.Decoder(_Times)


def _is_plain(value: bytes) -> bool:
    """Whether `_read_fast` may read a value: it does not look into what it skips."""
    return b"\\" not in value and b"\0" not in value


def _read_fast(value: bytes) -> _Times | None:
    """What `_read` returns of a plain value, in a tenth of the time; None for other than writers' objects."""
    if len(value) > 2 * MAX_DEPTH and (
        len(value) > MAX_BYTES or value.count(b"[") + value.count(b"{") > MAX_DEPTH
    ):
        return None
    try:
        return _FAST.decode(value)
    except msgspec.DecodeError:
        return None


_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)", re.DOTALL)
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


#: As cjson: raw control characters in strings, every number a double.
_DECODER = json.JSONDecoder(strict=False, parse_int=float, parse_float=float, parse_constant=_refuse_constant)


def _read(value: bytes) -> _Times | None:
    """The number, or the fields of the object, in a value; None where not both parsers read one of these."""
    _found, document = document_of(value)
    if isinstance(document, float):
        return _Times(timestamp=document)
    if not isinstance(document, dict):
        return None
    numbers = {field: document.get(field) for field in TIME_FIELDS}
    return _Times(**{field: number for field, number in numbers.items() if type(number) is float})


def document_of(value: bytes) -> tuple[bool, Any]:
    """Whether both parsers read a value, and the JSON document that it is, its numbers as floats."""
    if len(value) > MAX_BYTES or b"\0" in value:
        return False, None
    # Latin-1 maps every byte, so bytes that are no UTF-8 are harmless inside strings, as for cjson.
    text = value.decode("latin-1").strip(" \t\n\r")
    if (len(text) > MAX_DEPTH and _too_deep(text)) or ("\\u" in text and _lone_surrogate(text)):
        return False, None
    try:
        document, end = _DECODER.raw_decode(text)
    except ValueError:
        return False, None
    return (True, document) if end == len(text) else (False, None)


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


#: Why a value yields no time.
Reason = Literal[
    "iso_8601",
    "text_number",
    "seconds",
    "microseconds",
    "future",
    "other_time",
    "no_time",
    "not_json",
    "empty",
    "too_long",
    "no_string",
]
#: The same, for people.
EXPLANATIONS: dict[Reason, str] = {
    "iso_8601": "its time is a date as text, not a number of milliseconds",
    "text_number": "its time is a number in quotation marks",
    "seconds": "its time is in seconds, not in milliseconds",
    "microseconds": "its time is in microseconds or nanoseconds, not in milliseconds",
    "future": "its time is more than a day ahead of the server's clock",
    "other_time": "its time is no number of milliseconds since 1970",
    "no_time": "it has no timestamp, lastHeartbeat or lastActivity at its top level",
    "not_json": "it is not JSON",
    "empty": "it is empty",
    "too_long": f"it is longer than {MAX_BYTES // 1024} KiB",
    "no_string": "the key is no string",
}

_DATE = re.compile(r"\s*\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d|\s*$)")
_NUMBER = re.compile(r"\s*[+-]?\d+(?:\.\d*)?\s*$")


def reason_of(value: bytes | None, now_ms: int) -> Reason:
    """Why a value yields no time; it is known that it yields none.

    Args:
        value: what was read of the heartbeat, None for a key that is no string.
        now_ms: the server's time in ms since the epoch, by which it was judged.
    """
    if value is None:
        return "no_string"
    if not value:
        return "empty"
    if len(value) > MAX_BYTES:
        return "too_long"
    found, document = document_of(value)
    if not found:
        return "iso_8601" if _DATE.match(value.decode("latin-1")) else "not_json"
    if not isinstance(document, dict):
        return _reason_of_time(document, now_ms) if isinstance(document, float | str) else "no_time"
    named = [document[field] for field in TIME_FIELDS if field in document]
    return _reason_of_time(named[0], now_ms) if named else "no_time"


def _reason_of_time(time: Any, now_ms: int) -> Reason:
    """Why a field is no time."""
    if isinstance(time, str):
        return "iso_8601" if _DATE.match(time) else "text_number" if _NUMBER.match(time) else "other_time"
    if not isinstance(time, float):
        return "other_time"
    earliest, latest = EARLIEST_MS, now_ms + FUTURE_MS
    if earliest <= time * 1_000 <= latest:
        return "seconds"
    if any(earliest <= time / factor <= latest for factor in (1_000, 1_000_000)):
        return "microseconds"
    return "future" if latest < time < 10 * latest else "other_time"
