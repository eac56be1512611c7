"""What an engine is given: guards, and groups of keys that go only if their guards are unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from redis.exceptions import ResponseError

from cleanup_tasks.servers.errors import is_wrong_type
from cleanup_tasks.servers.values import KeyCommand, compare_read

#: How the metrics name an engine.
EngineName = Literal["lua", "python"]

#: To compare this much of a value takes the server as long as to delete a key.
BYTES_LIKE_A_KEY = 1_000


#: What a guard expects, by the letter that the Lua script is told: what is read of a string, `VALUE_BYTES`
#: at most, where nothing stands for a key that is missing, empty or of another type; no key of any type; a
#: hash of which a field has a certain value.
VALUE, ABSENT, FIELD = b"vaf"
_TWO_ABSENT, _TWO_EMPTY = bytes((ABSENT, ABSENT)), (b"", b"")


class Guards:
    """What was found of somebody when it was judged, and must not have changed."""

    __slots__ = ("expected", "fields", "kinds", "load", "names", "value_bytes")

    def __init__(
        self,
        names: tuple[bytes, ...],
        kinds: bytes,
        expected: tuple[bytes, ...],
        fields: tuple[bytes, ...] = (),
    ) -> None:
        """Some guards.

        Args:
            names: the key of each.
            kinds: the kind of each, a letter.
            expected: the value of each; empty for the kind ABSENT.
            fields: the hash fields of those of kind FIELD, in their order.
        """
        self.names = names
        self.kinds = kinds
        self.expected = expected
        self.fields = fields
        #: The length of all values.
        self.value_bytes = sum(map(len, expected))
        #: What it costs the server to compare them, in deletions of a key.
        self.load = len(names) + self.value_bytes // BYTES_LIKE_A_KEY


@dataclass(slots=True, eq=False)
class Batch:
    """Groups for one call of an engine.

    A guard is a key and what was found there when somebody was judged. A group is some guards, and keys
    that are deleted if none of them has changed since. On one server each group goes in one atomic step.
    """

    #: The server's time in ms since the epoch at which all was judged, the latest of them.
    judged_at_ms: int
    #: Deletes nothing, and counts what would go.
    dry_run: bool = False
    #: A guard each: its key, its kind, and the value that is expected.
    guards: list[bytes] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    expected: list[bytes] = field(default_factory=list)
    #: The hash fields of the guards of kind FIELD, in their order.
    fields: list[bytes] = field(default_factory=list)
    #: The keys of all groups, group after group.
    keys: list[bytes] = field(default_factory=list)
    #: Per group: the numbers of its guards, how many of the keys are its own, and what the caller calls it.
    group_guards: list[tuple[int, ...]] = field(default_factory=list)
    group_sizes: list[int] = field(default_factory=list)
    subjects: list[Any] = field(default_factory=list)
    #: What the batch costs the server, in deletions of a key.
    load: int = 0

    def add_guards(self, guards: Guards) -> tuple[int, ...]:
        """Add guards; returns their numbers."""
        first = len(self.guards)
        self.guards += guards.names
        self.kinds += guards.kinds
        self.expected += guards.expected
        if guards.fields:
            self.fields += guards.fields
        self.load += guards.load
        return (first, first + 1) if len(guards.names) == 2 else tuple(range(first, len(self.guards)))

    def add_absent(self, names: tuple[bytes, ...]) -> tuple[int, ...]:
        """Add guards of two keys that must not exist; returns their numbers."""
        first = len(self.guards)
        self.guards += names
        self.kinds += _TWO_ABSENT
        self.expected += _TWO_EMPTY
        self.load += 2
        return (first, first + 1)

    def guard(self, number: int) -> Guards:
        """One of the guards."""
        is_field = self.kinds[number] == FIELD
        fields = (self.fields[self.kinds[:number].count(FIELD)],) if is_field else ()
        kind = bytes(self.kinds[number : number + 1])
        return Guards((self.guards[number],), kind, (self.expected[number],), fields)

    def add_group(self, guards: tuple[int, ...], keys: Sequence[bytes], subject: Any = None) -> None:
        """Add keys that go if none of these guards has changed; `subject` is the caller's own."""
        self.group_guards.append(guards)
        self.group_sizes.append(len(keys))
        self.keys += keys
        self.subjects.append(subject)
        self.load += len(keys)

    def group_keys(self) -> list[list[bytes]]:
        """The keys of each group."""
        starts = [0]
        for size in self.group_sizes:
            starts.append(starts[-1] + size)
        return [
            self.keys[start : start + size] for start, size in zip(starts, self.group_sizes, strict=False)
        ]

    def questions(self) -> list[KeyCommand]:
        """A command for each guard that asks what is there; see `changed`."""
        fields = iter(self.fields)
        return [
            compare_read(key, expected)
            if kind == VALUE
            else ("EXISTS", key)
            if kind == ABSENT
            else ("HMGET", key, next(fields))
            for key, kind, expected in zip(self.guards, self.kinds, self.expected, strict=True)
        ]

    def changed(self, answers: list[Any]) -> set[int]:
        """The numbers of the guards that have changed by the answers to `questions`, errors among it."""
        if answers == self.expected:  # all of them are values
            return set()
        guards = zip(self.kinds, self.expected, answers, strict=True)
        return {number for number, guard in enumerate(guards) if not _holds(*guard)}

    def kept(self, changed: set[int]) -> list[int]:
        """The numbers of the groups that stay because one of these guards has changed."""
        if not changed:
            return []
        return [number for number, guards in enumerate(self.group_guards) if not changed.isdisjoint(guards)]


def _holds(kind: int, expected: bytes, answer: Any) -> bool:
    if kind == ABSENT:
        return bool(answer == 0)
    if kind == FIELD:
        return bool(answer == [expected])
    if isinstance(answer, ResponseError) and is_wrong_type(answer):
        return not expected
    return bool(answer == expected)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine did with a batch."""

    #: Keys that the server said it deleted; in a dry run, that would go.
    deleted: int = 0
    #: Numbers of the groups that stayed because a guard had changed.
    kept: list[int] = field(default_factory=list)
    #: Numbers of the groups that were given up, whole or in part.
    failed: list[int] = field(default_factory=list)
    #: What makes it useless to go on; the rest of the answer holds all the same.
    error: Exception | None = None
