"""What an engine is given: guards, and groups of keys that go only if their guards are unchanged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from cleanup_tasks.servers.errors import is_wrong_type
from cleanup_tasks.servers.values import KeyCommand, compare_reads

#: How the metrics name an engine.
EngineName = Literal["lua", "python"]

#: To compare this much of a value takes the server as long as to delete a key.
BYTES_LIKE_A_KEY = 1_000
#: The number of the first guard that is a hash field, and of the first that is an absent key; values have
#: numbers from 0. There are never so many of a kind.
FIRST_FIELD, FIRST_ABSENT = 1_000_000, 2_000_000


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
    #: Guards that are values of strings: their keys, and what was read of each, `VALUE_BYTES` at most; empty
    #: where a key is missing, empty or of another type.
    values: list[bytes] = field(default_factory=list)
    expected: list[bytes] = field(default_factory=list)
    #: Guards that are hash fields: hash, field and value of each.
    fields: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    #: Guards that are absent keys: there must be no key of any type.
    absent: list[bytes] = field(default_factory=list)
    #: The keys of all groups, group after group.
    keys: list[bytes] = field(default_factory=list)
    #: Per group: the numbers of its guards, how many of the keys are its own, and what the caller calls it.
    group_guards: list[tuple[int, ...]] = field(default_factory=list)
    group_sizes: list[int] = field(default_factory=list)
    subjects: list[Any] = field(default_factory=list)
    #: What the batch costs the server, in deletions of a key.
    load: int = 0

    def add_values(self, keys: Sequence[bytes], expected: Sequence[bytes]) -> tuple[int, ...]:
        """Add guards: keys, and the value of each; returns their numbers."""
        first = len(self.values)
        self.values += keys
        self.expected += expected
        self.load += len(keys) + sum(map(len, expected)) // BYTES_LIKE_A_KEY
        return tuple(range(first, first + len(keys)))

    def add_field(self, key: bytes, name: bytes, expected: bytes) -> int:
        """Add a guard: the field of a hash, and its value; returns its number."""
        self.fields.append((key, name, expected))
        self.load += 1
        return FIRST_FIELD + len(self.fields) - 1

    def add_absent(self, keys: Sequence[bytes]) -> tuple[int, ...]:
        """Add guards: keys that must not exist; returns their numbers."""
        first = FIRST_ABSENT + len(self.absent)
        self.absent += keys
        self.load += len(keys)
        return tuple(range(first, first + len(keys)))

    def add_group(self, guards: tuple[int, ...], keys: Sequence[bytes], subject: Any = None) -> None:
        """Add keys that go if none of these guards has changed; `subject` is the caller's own.

        On a cluster the last key goes last, and if it is a guard itself, it stays where another key could not
        be deleted.
        """
        self.group_guards.append(guards)
        self.group_sizes.append(len(keys))
        self.keys += keys
        self.subjects.append(subject)
        self.load += len(keys)

    def group_keys(self) -> list[list[bytes]]:
        """The keys of each group."""
        keys = iter(self.keys)
        return [[next(keys) for _ in range(size)] for size in self.group_sizes]

    def numbers(self) -> Iterator[int]:
        """The numbers of all guards."""
        firsts = ((0, self.values), (FIRST_FIELD, self.fields), (FIRST_ABSENT, self.absent))
        return chain.from_iterable(range(first, first + len(guards)) for first, guards in firsts)

    def guarded(self) -> list[bytes]:
        """The key of each guard, in the order of their numbers."""
        return [*self.values, *(key for key, _, _ in self.fields), *self.absent]

    def copy_guard(self, number: int, batch: "Batch") -> int:
        """Add a guard of another batch too; returns its number here."""
        if number >= FIRST_ABSENT:
            return self.add_absent([batch.absent[number - FIRST_ABSENT]])[0]
        if number >= FIRST_FIELD:
            return self.add_field(*batch.fields[number - FIRST_FIELD])
        return self.add_values([batch.values[number]], [batch.expected[number]])[0]

    def questions(self) -> list[KeyCommand]:
        """A command for each guard that asks what is there; see `changed`."""
        return [*self.questions_of_content(), *(("EXISTS", key) for key in self.absent)]

    def questions_of_content(self) -> list[KeyCommand]:
        """The first of `questions`, for all guards that are no absent keys."""
        return [
            *compare_reads(self.values, self.expected),
            *(("HMGET", key, name) for key, name, _ in self.fields),
        ]

    def changed(self, answers: list[Any]) -> set[int]:
        """The numbers of the guards that have changed by the answers to `questions`, errors among it."""
        expected = [*self.expected, *([value] for _, _, value in self.fields), *(0 for _ in self.absent)]
        if answers == expected:
            return set()
        return {
            number
            for number, before, answer in zip(self.numbers(), expected, answers, strict=True)
            if answer != before and not (is_wrong_type(answer) and before == b"")
        }

    def kept(self, changed: set[int]) -> list[int]:
        """The numbers of the groups that stay because one of these guards has changed."""
        if not changed:
            return []
        return [number for number, guards in enumerate(self.group_guards) if not changed.isdisjoint(guards)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine did with a batch."""

    #: Keys that the server said it deleted; in a dry run, that would go.
    deleted: int = 0
    #: Numbers of the groups that stayed because a guard had changed.
    kept: list[int] = field(default_factory=list)
    #: Numbers of the groups that were given up, whole or in part; all where the clock of the server was set
    #: back to before they were judged.
    failed: list[int] = field(default_factory=list)
    #: What makes it useless to go on; the rest of the answer holds all the same.
    error: Exception | None = None


def given_up(batch: Batch) -> Answer:
    """The answer where nothing was done with a batch."""
    return Answer(failed=list(range(len(batch.subjects))))
