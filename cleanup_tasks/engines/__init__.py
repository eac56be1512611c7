"""Engines: a batch of coordinators in, a verdict for each out, decided and done in one atomic step."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from redis.exceptions import RedisError

from cleanup_tasks.batch import Batch
from cleanup_tasks.line import Waiting, advance
from cleanup_tasks.staleness import State

#: Verdicts, the Lua script's own numbers: below zero the keys were kept.
REAPED = 0
ACTIVE = -1
UNREADABLE = -2
GONE = -3
#: An orphan that has not been noted for long enough.
UNRIPE = -4
#: Could not be dealt with, whole or in part, while others could (only on a cluster).
FAILED = -5

VERDICTS = {State.ACTIVE: ACTIVE, State.UNREADABLE: UNREADABLE, State.STALE: REAPED}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an engine did with a batch."""

    #: One verdict per coordinator, in the order of `Batch.own`.
    coordinators: list[int] = field(default_factory=list)
    #: One verdict per shared record, in the order of `Batch.shared`.
    shared: list[int] = field(default_factory=list)
    #: Keys that the server said it deleted; in a dry run, that would go.
    deleted: int = 0
    #: Those of `Batch.unseen` that gave a sign of life since. If there are any, nothing was done.
    newcomers: frozenset[bytes] = frozenset()
    #: A heartbeat changed while it was judged (Python engine), so nothing was done.
    contended: bool = False
    #: What makes going on useless; what the outcome says was done all the same (only on a cluster).
    fatal: "RedisError | ScriptingRefused | None" = None


Reaping: TypeAlias = Waiting[Outcome]


class Engine(Protocol):
    """What decides and deletes."""

    @property
    def name(self) -> str:
        """``lua`` or ``python``, as the metrics show it."""

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        """Judge each coordinator of a batch and remove the keys of those that are stale.

        Raises what the client raises; nothing is sent twice.
        """


#: What became of one of many batches: where `Engine.reap` would raise, what it would raise.
Answer: TypeAlias = "Outcome | RedisError | ScriptingRefused"


class NodeEngine(Engine, Protocol):
    """An engine that works on one server."""

    def reap_each(self, batches: list[Batch], threshold_s: int, *, dry_run: bool) -> list[Answer]:
        """`reap` for each of many small batches, each atomic by itself, with few round trips."""


class ScriptingRefused(Exception):
    """Scripting itself is forbidden, missing or broken on this server; code without Lua may still do."""


def finish(reapings: Iterable[Reaping]) -> list[Answer]:
    """What became of each; the server is busy with the others while one waits."""
    answers: dict[int, Answer] = {}
    waiting = dict(enumerate(reapings))
    count = len(waiting)
    while waiting:
        for number, reaping in list(waiting.items()):
            answer: Answer | None
            try:
                answer = advance(reaping)
            except (RedisError, ScriptingRefused) as error:
                answer = error
            if answer is not None:
                answers[number] = answer
                del waiting[number]
    return [answers[number] for number in range(count)]
