"""Whatever a heartbeat holds, the script and the pure rule read the same from it."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import ACTIVE, REAPED, UNREADABLE
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.staleness import MAX_BYTES, MAX_DEPTH, State, judge, judge_value, judge_values, usual_times
from tests.sweeping import THRESHOLD_S, reap, script_calls

VERDICTS = {State.STALE: REAPED, State.ACTIVE: ACTIVE, State.UNREADABLE: UNREADABLE}

#: A time, as an offset in ms from the server's; none is near an edge of the rule, for the clock runs on.
OFFSETS = st.sampled_from(
    [-700_000, -900_000.75, -500_000, -1_000, 60_000, 86_000_000, 87_000_000, -(10**12)]
)
SPACES = ["", " ", "\n", "\t", "\r", "\f", "\v", "\xa0", "\0", "\ufeff"]
ODD_NUMBERS = [
    *[
        "0",
        "-0",
        "00",
        "01",
        "-01",
        "1.",
        ".5",
        "-.5",
        "+1",
        "1e3",
        "1e",
        "1e+",
        "1E+12",
        "1e-05",
        "1e05",
        "0e1",
        "01e1",
        "0x10",
        "0x1p3",
        "-0x1",
        "nan",
        "NaN",
        "-nan",
        "inf",
        "-inf",
    ],
    *[
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "1_0",
        "1760000000000.75",
        "1.76e12",
        "0.176E13",
        "-",
        "--",
        "1-1",
        "1,,",
        "true",
        "tru",
        "nul",
        "None",
    ],
    "9" * 400,
]
ODD_STRINGS = [
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
SPACE = st.sampled_from(SPACES)
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
    leaves = times | st.sampled_from(ODD_NUMBERS + ODD_STRINGS)

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
    if draw(st.booleans()):
        return document  # no more oddities: each alone must be read alike too
    document = draw(SPACE) + document + draw(SPACE)
    if draw(st.booleans()) and document:
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


@given(values=values())
def test_many_at_once_are_judged_as_one_by_one(values: list[bytes]) -> None:
    now_ms = 1_800_000_000_000
    usual = b'{"coordinatorId": "c", "timestamp": $T-700000$}'
    filled: list[bytes | None] = [with_times(value, now_ms) for value in (*values, usual)]
    filled.append(None)
    for some in (filled, filled[-2:], [value for value in filled if b"\n" not in (value or b"")]):
        assert judge_values(some, usual_times(some), now_ms, THRESHOLD_S) == [
            judge_value(value, now_ms, THRESHOLD_S) for value in some
        ]


@pytest.mark.parametrize("offset_ms", [-601_000, -600_999, -600_000, 0, 86_400_000, 86_400_001])
@pytest.mark.parametrize("now_ms", [1_800_000_000_000, 1_800_000_000_999, 1_000_000_000_000])
def test_the_edges_are_the_same_for_many(now_ms: int, offset_ms: int) -> None:
    value = b'{"coordinatorId": "c", "timestamp": %d}' % (now_ms + offset_ms)
    assert judge_values([value], usual_times([value]), now_ms, THRESHOLD_S) == [
        judge_value(value, now_ms, THRESHOLD_S)
    ]


def assert_all_agree(client: Redis, beats: list[bytes], activities: list[bytes]) -> list[int]:
    """The pure rule, the Python engine and the script give the same verdicts, which are returned."""
    client.flushall()
    now_ms = server_time_ms(client)
    filled = [with_times(value, now_ms) for value in beats]
    worked = [with_times(value, now_ms) for value in activities[: len(beats)]]
    batch = Batch(own={b"%d" % number: [] for number in range(len(filled))})
    client.mset({keys.heartbeat(b"%d" % number): value for number, value in enumerate(filled)})
    for number, value in enumerate(worked):
        client.set(keys.activity(b"%d" % number), value)
    pairs = zip(filled, [*worked, *[None] * (len(filled) - len(worked))], strict=True)
    expected = [VERDICTS[judge(beat, work, now_ms, THRESHOLD_S)] for beat, work in pairs]
    calls = script_calls(client)
    by_python = reap(PythonEngine(client), batch, dry_run=True)
    assert script_calls(client) == calls
    by_lua = reap(LuaEngine(client), batch, dry_run=True)
    assert script_calls(client) > calls
    readings = zip(filled, expected, by_python.coordinators, by_lua.coordinators, strict=True)
    assert [reading for reading in readings if len(set(reading[1:])) > 1] == []
    assert by_lua == by_python
    return expected


@pytest.mark.parametrize(
    "template",
    [
        '{"timestamp":$T-700000$,"y":%s}',
        '{"y":%s,"timestamp":$T-700000$}',
        '{"timestamp":$T-700000$,"y":[0,%s]}',
        "%s",
    ],
)
def test_every_oddity_alone(client: Redis, template: str) -> None:
    values = [template.replace("%s", odd) for odd in [*ODD_NUMBERS, *ODD_STRINGS, "1" + "0" * 5000]]
    verdicts = assert_all_agree(client, [value.encode() for value in values], [])
    # Some are JSON after all, others are not: the table does not just say "unreadable".
    assert UNREADABLE in verdicts
    assert template == "%s" or REAPED in verdicts


def test_every_space_alone(client: Redis) -> None:
    template = '{0}{{{0}"timestamp"{0}:{0}$T-700000${0},{0}"y"{0}:{0}[{0}1{0},{0}2{0}]{0}}}{0}'
    values = [template.format(space).encode() for space in SPACES]
    verdicts = assert_all_agree(client, values, [])
    assert [space for space, verdict in zip(SPACES, verdicts, strict=True) if verdict == REAPED] == [
        "",
        " ",
        "\n",
        "\t",
        "\r",
    ]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"x":', "}")])
def test_depth(client: Redis, opening: str, closing: str) -> None:
    depths = [1, 50, 98, 99, 100, 101, 999, 1200]
    nested = [opening * depth + "1" + closing * depth for depth in depths]
    verdicts = assert_all_agree(
        client, [b'{"timestamp":$T-700000$,"y":%s}' % text.encode() for text in nested], []
    )
    assert dict(zip(depths, verdicts, strict=True)) == {
        depth: REAPED if depth + 1 <= MAX_DEPTH else UNREADABLE for depth in depths
    }


def test_length(client: Redis) -> None:
    filler = [MAX_BYTES - 40, MAX_BYTES + 40]
    values = [b'{"timestamp":$T-700000$,"y":"%s"}' % (b"x" * length) for length in filler]
    assert assert_all_agree(client, values, []) == [REAPED, UNREADABLE]


def test_many_brackets_but_not_deep(client: Redis) -> None:
    value = b'{"timestamp":$T-700000$,"y":[%s]}' % b",".join([b"[[]]"] * 500)
    assert assert_all_agree(client, [value], []) == [REAPED]


@given(beats=values(), activities=values())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_engines_read_what_the_rule_reads(
    client: Redis, beats: list[bytes], activities: list[bytes]
) -> None:
    assert_all_agree(client, beats, activities)
