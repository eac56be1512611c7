"""Whatever a heartbeat holds, the script and the pure rule read the same from it."""

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import ACTIVE, REAPED, UNREADABLE
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.staleness import State, judge
from tests.sweeping import THRESHOLD_S, script_calls

VERDICTS = {State.STALE: REAPED, State.ACTIVE: ACTIVE, State.UNREADABLE: UNREADABLE}

#: A time, as an offset in ms from the server's; none is near an edge of the rule, for the clock runs on.
OFFSETS = st.sampled_from(
    [-700_000, -900_000.75, -500_000, -1_000, 60_000, 86_000_000, 87_000_000, -(10**12)]
)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t", "\r", "\f", "\v", "\xa0", "\0", "\ufeff"])
ODD_NUMBERS = st.sampled_from(
    """0 -0 00 01 -01 1. .5 -.5 +1 1e3 1e 1e+ 1E+12 1e-05 1e05 0e1 0x10 0x1p3 -0x1 nan NaN -nan inf -inf
    Infinity -Infinity 1e400 -1e400 1_0 1760000000000.75 1.76e12 0.176E13 - -- 1-1 true false null tru nul
    True None""".split()  # noqa: SIM905
) | st.sampled_from(["9" * 400, "1" + "0" * 5000])
STRINGS = st.sampled_from(
    [
        '"a"',
        '""',
        '"\\"\\\\\\/\\b\\f\\n\\r\\t"',
        '"[{[{"',
        '"\\u0041"',
        '"\\u0000"',
        '"\\ud83d\\ude00"',
        '"\\uD83D\\uDE00"',
        '"\\ud83d"',
        '"\\ude00"',
        '"\\ude00\\ud83d"',
        '"\\ud83d\\u0041"',
        '"\\\\ud83d"',
        '"\\u12"',
        '"\\uzzzz"',
        '"\\x41"',
        '"\n"',
        '"\x01"',
        '"\0"',
        '"é😀"',
        '"\x7f"',
        "'a'",
        '"open',
        '"\\',
    ]
)
NAMES = st.sampled_from(
    ['"timestamp"', '"lastHeartbeat"', '"lastActivity"', '"time\\u0073tamp"', '"Timestamp"', '"x"', '""', "x"]
)


def _object(separator: str, members: list[tuple[str, str, str, str]]) -> str:
    return (
        "{" + separator.join(f"{before}{name}:{after}{value}" for before, name, after, value in members) + "}"
    )


def _array(separator: str, items: list[str]) -> str:
    return "[" + separator.join(items) + "]"


@st.composite
def documents(draw: st.DrawFn, times: st.SearchStrategy[str]) -> str:
    """Something like JSON, often not quite."""
    leaves = st.one_of(times, ODD_NUMBERS, STRINGS)

    def nested(inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        members = st.lists(st.tuples(SPACE, NAMES, SPACE, inside), max_size=4)
        separators = st.sampled_from([",", ",", ",", " , ", ",,", "", ";"])
        objects = st.builds(_object, separators, members)
        arrays = st.builds(_array, separators, st.lists(inside, max_size=3))
        return st.one_of(objects, objects, arrays)

    document = draw(st.recursive(leaves, nested, max_leaves=6))
    depth = draw(st.sampled_from([0, 0, 0, 99, 100, 101, 130]))
    document = '{"x":' * depth + document + "}" * depth
    if draw(st.booleans()):
        document = f'{{"timestamp":{draw(times)},"y":{document}}}'
    document = draw(SPACE) + document + draw(SPACE)
    if draw(st.sampled_from([False, False, True])) and document:
        at = draw(st.integers(0, len(document) - 1))
        document = document[:at] + draw(st.text(max_size=1)) + document[at + 1 :]
    return document


@st.composite
def values(draw: st.DrawFn) -> list[bytes]:
    """Heartbeat values with ``$`` for the server's time."""
    times = OFFSETS.map(lambda offset: f"$T{offset:+}$")
    some = st.one_of(
        documents(times).map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=40)
    )
    return draw(st.lists(some, min_size=1, max_size=30))


def with_times(value: bytes, now_ms: int) -> bytes:
    """The value with each offset replaced by a time."""
    return re.sub(rb"\$T([+-][\d.]+)\$", lambda match: _number(now_ms + float(match[1])), value)


def _number(time_ms: float) -> bytes:
    return b"%d" % time_ms if time_ms.is_integer() else b"%.2f" % time_ms


@given(beats=values(), activities=values())
@settings(max_examples=6000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_engines_read_what_the_rule_reads(
    client: Redis, beats: list[bytes], activities: list[bytes]
) -> None:
    # Given coordinators with these heartbeats, some with an activity
    client.flushall()
    now_ms = server_time_ms(client)
    filled = [with_times(value, now_ms) for value in beats]
    worked = [with_times(value, now_ms) for value in activities[: len(beats)]]
    batch = Batch(own={b"%d" % number: [] for number in range(len(filled))})
    for number, value in enumerate(filled):
        client.set(keys.heartbeat(b"%d" % number), value)
    for number, value in enumerate(worked):
        client.set(keys.activity(b"%d" % number), value)
    # When the pure rule judges them, and each engine
    pairs = zip(filled, [*worked, *[None] * (len(filled) - len(worked))], strict=True)
    expected = [VERDICTS[judge(beat, work, now_ms, THRESHOLD_S)] for beat, work in pairs]
    calls = script_calls(client)
    by_python = PythonEngine(client).reap(batch, THRESHOLD_S, dry_run=True)
    assert script_calls(client) == calls
    by_lua = LuaEngine(client).reap(batch, THRESHOLD_S, dry_run=True)
    assert script_calls(client) > calls
    # Then all three say the same
    assert by_python.coordinators == expected
    assert by_lua.coordinators == expected
    assert by_lua == by_python
