"""The contract of lua/delete_if_unchanged.lua: a call that is not what it should be changes nothing."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from cleanup_tasks.engines.batch import FIRST_ABSENT, FIRST_FIELD, Batch
from cleanup_tasks.engines.lua import LuaEngine, script_source
from demo.servers import Server
from tests.support.sweeping import all_keys, delete, digest, keys_of_command, monitored

pytestmark = pytest.mark.every_server

#: What is guarded: two values, a key that is no string; one that is missing; and two fields of a hash.
VALUES = {b"v1": b"one", b"v2": b"two", b"list": b""}
ABSENT = [b"missing"]
FIELDS = {b"f3": b"three", b"f4": b"four"}
GUARDED = [*VALUES, *(b"hash" for _ in FIELDS), *ABSENT]
GROUPS = [[b"k0", b"k1"], [b"k2"], [b"k3", b"k4", b"k5"]]
KEYS = [key for group in GROUPS for key in group]
EVERYBODY = (0, 1, 2, FIRST_FIELD, FIRST_FIELD + 1, FIRST_ABSENT)
#: The largest number that the layout holds.
LARGEST = 2**32 - 1
#: Numbers of no guard: the first of each kind that there is not.
BEYOND = (len(VALUES), FIRST_FIELD + len(FIELDS), FIRST_ABSENT + len(ABSENT), LARGEST)


@dataclass(frozen=True)
class Call:
    """A call of the script, as its head describes it."""

    keys: list[bytes] = field(default_factory=lambda: GUARDED + KEYS)
    judged_at: bytes = b"1700000000000"
    dry_run: bytes = b"0"
    numbers: list[bytes] = field(
        default_factory=lambda: [b"%d" % len(kind) for kind in (VALUES, FIELDS, ABSENT)]
    )
    layout: list[int] = field(default_factory=lambda: layout([EVERYBODY] * len(GROUPS)))
    #: The expected values, then names and values of the fields.
    rest: list[bytes] = field(
        default_factory=lambda: [*VALUES.values(), *(word for item in FIELDS.items() for word in item)]
    )

    def arguments(self) -> list[bytes]:
        """ARGV."""
        return [self.judged_at, self.dry_run, *self.numbers, array("I", self.layout).tobytes(), *self.rest]

    def words(self) -> list[bytes]:
        """What follows EVAL and the script."""
        return [b"%d" % len(self.keys), *self.keys, *self.arguments()]


def layout(guards: list[tuple[int, ...]]) -> list[int]:
    """The groups as numbers, where each has these guards."""
    return [
        number
        for its_guards, its_keys in zip(guards, GROUPS, strict=True)
        for number in (len(its_keys), len(its_guards), *its_guards)
    ]


def write(client: Redis) -> None:
    """The database in which every guard holds."""
    client.flushall()
    client.mset({b"v1": b"one", b"v2": b"two", **dict.fromkeys(KEYS, b"1")})
    client.rpush(b"list", b"x")
    client.hset(b"hash", mapping=FIELDS)  # type: ignore[arg-type]


def call(client: Redis, words: list[bytes]) -> Any:
    """The script's answer to a call, or the error that it answered."""
    try:
        return client.execute_command("EVAL", script_source(), *words)  # type: ignore[no-untyped-call]
    except ResponseError as error:
        return error


def dropped(items: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """The list without each of its items."""
    for at, item in enumerate(items):
        yield f"without {at} {item!r}", items[:at] + items[at + 1 :]


def swapped(items: list[Any]) -> Iterator[tuple[int, int, list[Any]]]:
    """The list with each two of its items in each other's place, unless they are alike."""
    for one in range(len(items)):
        for other in range(one):
            if items[one] != items[other]:
                changed = list(items)
                changed[one], changed[other] = items[other], items[one]
                yield other, one, changed


def malformed() -> Iterator[tuple[str, list[bytes]]]:
    """Calls that differ in one point from one that deletes everything, and are not as they should be."""
    good = Call()
    words = good.words()
    # an argument more or less, whatever the others say
    for what, fewer in dropped(words):
        yield f"a word less: {what}", fewer
    for at in range(1, len(words) + 1):
        yield f"a word more: at {at}", [*words[:at], words[at - 1], *words[at:]]
    for number in (-1, 0, 1, 2, len(words)):
        yield f"numkeys: {number}", [b"%d" % number, *words[1:]]
    for keys_ in (len(good.keys) - 1, len(good.keys) + 1):
        yield f"numkeys: {keys_}", [b"%d" % keys_, *words[1:]]
    # a key more or less, where their number is right
    for what, keys in dropped(good.keys):
        yield f"a key less: {what}", replace(good, keys=keys).words()
    yield "a key more", replace(good, keys=[*good.keys, b"v1"]).words()
    # two in each other's place
    for one, other, keys in swapped(good.keys):
        if one < len(GUARDED):  # within the groups' keys it makes no difference
            yield f"keys swapped: {one} {other}", replace(good, keys=keys).words()
    for one, other, arguments in swapped(good.arguments()):
        yield f"arguments swapped: {one} {other}", [*words[: 1 + len(good.keys)], *arguments]
    # each single argument
    for text in (b"", b"x", b"0", b"-1", b"170000000000", b"1.7e12", b" 1700000000000", b"1700000000000x"):
        yield f"judged at {text!r}", replace(good, judged_at=text).words()
    for text in (b"", b"2", b"00", b"true", b"x", b"-1"):
        yield f"dry run {text!r}", replace(good, dry_run=text).words()
    for at, right in enumerate(good.numbers):
        for text in (
            b"",
            b"x",
            b"-1",
            b"0",
            b"4",
            b"99",
            right + b".0",
            b"nan",
            b"inf",
            b"-" + right,
            b"0x1",
        ):
            numbers = [*good.numbers[:at], text, *good.numbers[at + 1 :]]
            yield f"numbers {numbers!r}", replace(good, numbers=numbers).words()


def malformed_layouts(*, wrong_guards: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """Calls whose groups don't add up, or name guards that there are not."""
    good = Call()
    words = good.words()
    at = 1 + len(good.keys) + 5
    for number in range(len(words[at])):
        shorter = words[at][:number] + words[at][number + 1 :]
        yield f"layout without byte {number}", [*words[:at], shorter, *words[at + 1 :]]
    for longer in (b"\0", b"\0\0\0\0", b"\1\0\0\0", b"\0\0\0\0\1\0\0\0", b"\xff" * 8):
        yield f"layout and {longer!r}", [*words[:at], words[at] + longer, *words[at + 1 :]]
    yield "layout of nothing", [*words[:at], b"", *words[at + 1 :]]
    for number, value in enumerate(good.layout):
        fewer = good.layout[:number] + good.layout[number + 1 :]
        yield f"layout without number {number}", replace(good, layout=fewer).words()
        for changed in {value + 1, value - 1, len(VALUES), LARGEST} - {value}:
            if is_guard(number) and (changed in EVERYBODY or not wrong_guards):
                continue
            if 0 <= changed <= LARGEST:
                other = [*good.layout[:number], changed, *good.layout[number + 1 :]]
                yield f"layout number {number}: {changed}", replace(good, layout=other).words()


def is_guard(number: int) -> bool:
    """Whether a place in the layout is a guard's number: another guard's would be a call like any."""
    return number % (len(EVERYBODY) + 2) > 1


def test_the_call_that_is_taken_apart_deletes_everything(client: Redis) -> None:
    write(client)
    before = digest(client)
    assert call(client, replace(Call(), dry_run=b"1").words()) == [len(KEYS), []]
    assert digest(client) == before
    assert call(client, Call().words()) == [len(KEYS), []]
    assert all_keys(client) == set(GUARDED) - {b"missing"}


def test_the_engine_calls_it_so(server: Server, client: Redis) -> None:
    write(client)
    batch = Batch(1_700_000_000_000)
    guards = batch.add_values([*VALUES], [*VALUES.values()])
    guards += tuple(batch.add_field(b"hash", *item) for item in FIELDS.items())
    guards += batch.add_absent(ABSENT)
    assert guards == tuple(batch.numbers()) == EVERYBODY
    for its_keys in GROUPS:
        batch.add_group(guards, its_keys)
    with server.client() as own:
        sent = monitored(client, lambda: delete(LuaEngine(own), batch))
    (words,) = [words for _sender, words in sent if words[0] == "EVALSHA" and words[2] != "0"]
    assert list(keys_of_command(words)) == [key.decode() for key in Call().keys]
    assert len(words) == 2 + len(Call().words())
    assert all_keys(client) == set(GUARDED) - {b"missing"}


@pytest.mark.parametrize("calls", [malformed, malformed_layouts])
def test_a_malformed_call_changes_nothing(client: Redis, calls: Any) -> None:
    wrong = []
    write(client)
    before = digest(client)
    for what, words in calls():
        answer = call(client, words)
        refused = isinstance(answer, ResponseError) or answer == [0, [0, 1, 2]]
        if digest(client) != before or not refused:
            wrong.append((what, answer))
            write(client)
    assert wrong == []


@pytest.mark.parametrize("changed", range(len(GUARDED)))
def test_a_malformed_layout_changes_nothing_where_a_guard_has_changed(client: Redis, changed: int) -> None:
    """Of one group in three, so that the two others would go."""
    guards = [tuple(number for number in EVERYBODY if number != EVERYBODY[changed])] * 3
    guards[1] = EVERYBODY
    good = Call(layout=layout(guards))

    def write_changed() -> bytes:
        write(client)
        if GUARDED[changed] == b"hash":
            client.hset(b"hash", [*FIELDS][changed - len(VALUES)], b"something else")
        else:
            client.delete(GUARDED[changed])
            client.set(GUARDED[changed], b"something else")
        return digest(client)

    write_changed()
    assert call(client, good.words()) == [5, [1]]
    before = write_changed()
    wrong = []
    for number in range(len(good.layout)):
        for some in (
            good.layout[:number],
            good.layout[:number] + good.layout[number + 1 :],
            [*good.layout[:number], 0, *good.layout[number:]],
            *([*good.layout[:number], beyond, *good.layout[number + 1 :]] for beyond in BEYOND),
        ):
            answer = call(client, replace(good, layout=some).words())
            # a guard out of range counts as changed: its group stays, and the others are as they should be
            safe = digest(client) == before if isinstance(answer, ResponseError) else stays(client, answer[1])
            if not safe:
                wrong.append((some, answer))
            write_changed()
    assert wrong == []


def stays(client: Redis, kept: list[int]) -> bool:
    """Whether all keys of these groups are there, and the group in the middle is one of them."""
    return 1 in kept and all_keys(client) >= {key for number in kept for key in GROUPS[number]}


def test_every_key_that_it_touches_is_declared(server: Server, client: Redis) -> None:
    write(client)

    def act() -> None:
        with server.client() as own:
            call(own, replace(Call(), dry_run=b"1").words())
            call(own, Call().words())
            own.set(b"missing", b"x")  # and where something has changed
            call(own, Call().words())

    own_calls = [words for sender, words in monitored(client, act) if sender == "lua"]
    assert {words[0].upper() for words in own_calls} == {"TIME", "GETRANGE", "HMGET", "EXISTS", "UNLINK"}
    touched = {key for words in own_calls for key in keys_of_command(words)}
    assert touched == {key.decode() for key in Call().keys}
