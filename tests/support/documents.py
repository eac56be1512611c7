"""Values of heartbeats, usual and very odd, with ``$T-700000$`` for a time that long ago."""

import re

from hypothesis import strategies as st

#: Times, as an offset in ms from the server's; none is near an edge of the rule, for the clock runs on.
OFFSETS = [-700_000, -900_000.75, -500_000, -1_000, 60_000, 86_000_000, 87_000_000, -(10**12)]
SPACES = ["", " ", "\n", "\t", "\r", "\f", "\v", "\xa0", "\0", "\ufeff"]
ODD_NUMBERS = [
    *("0", "-0", "00", "01", "-01", "1.", ".5", "-.5", "+1", "1e3", "1e", "1e+"),
    *("1E+12", "1e-05", "1e05", "0e1", "01e1", "0x10", "0x1p3", "-0x1", "nan", "NaN", "-nan", "inf"),
    *(
        "-inf",
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
    ),
    *("-", "--", "1-1", "1,,", "true", "tru", "nul", "null", "None"),
    "9" * 400,
]
ODD_STRINGS = [
    *('"a"', '""', '"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"[{[{"', '"\\u0041"', '"\\u0000"'),
    *('"\\ud83d\\ude00"', '"\\uD83D\\uDE00"', '"\\ud83d"', '"\\ude00"', '"\\ude00\\ud83d"'),
    *('"\\ud83d\\u0041"', '"\\\\ud83d"', '"\\u12"', '"\\uzzzz"', '"\\x41"', '"\n"', '"\x01"', '"\0"'),
    *('"é😀"', '"\x7f"', "'a'", '"open', '"\\'),
]
#: Where an oddity may be; the last has it stand alone.
AROUND_ODDITIES = [
    '{"timestamp":$T-700000$,"y":%s}',
    '{"y":%s,"timestamp":$T-700000$}',
    '{"timestamp":$T-700000$,"y":[0,%s]}',
    '{"timestamp":%s,"lastActivity":$T-700000$}',
    "%s",
]
SPACE = st.sampled_from(SPACES)
NAMES = st.sampled_from(
    ['"timestamp"', '"lastHeartbeat"', '"lastActivity"', '"time\\u0073tamp"', '"Timestamp"', '"x"', '""', "x"]
)


def every_oddity() -> list[bytes]:
    """Each odd number, string and space, alone and at each place."""
    odd = [*ODD_NUMBERS, *ODD_STRINGS, "1" + "0" * 5000]
    spaced = '{0}{{{0}"timestamp"{0}:{0}$T-700000${0},{0}"y"{0}:{0}[{0}1{0},{0}2{0}]{0}}}{0}'
    values = [
        *(template.replace("%s", one) for template in AROUND_ODDITIES for one in odd),
        *(spaced.format(space) for space in SPACES),
    ]
    return [value.encode() for value in values]


def with_times(value: bytes, now_ms: int) -> bytes:
    """The value with each offset replaced by a time."""
    return re.sub(rb"\$T([+-]\d+(?:\.\d+)?)\$", lambda match: _number(now_ms + float(match[1])), value)


def _number(time_ms: float) -> bytes:
    return b"%d" % time_ms if time_ms.is_integer() else b"%.2f" % time_ms


def _object(separator: str, members: list[tuple[str, str, str, str]]) -> str:
    return (
        "{" + separator.join(f"{before}{name}:{after}{value}" for before, name, after, value in members) + "}"
    )


def _array(separator: str, items: list[str]) -> str:
    return "[" + separator.join(items) + "]"


@st.composite
def _documents(draw: st.DrawFn, times: st.SearchStrategy[str]) -> str:
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


def odd_values() -> st.SearchStrategy[list[bytes]]:
    """Some values; fill in the times by `with_times`."""
    times = st.sampled_from(OFFSETS).map(lambda offset: f"$T{offset:+}$")
    some = _documents(times).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)
    return st.lists(some, min_size=1, max_size=30)
