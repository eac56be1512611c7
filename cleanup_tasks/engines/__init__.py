"""Engines: a batch of coordinators in, a verdict for each out, decided and done in one atomic step."""

from dataclasses import dataclass, field
from typing import Protocol

from cleanup_tasks.batches import Batch

#: Verdicts, the Lua script's own numbers: below zero the keys were kept.
REAPED = 0
ACTIVE = -1
UNREADABLE = -2
GONE = -3
#: An orphan that has not been noted for long enough.
UNRIPE = -4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an engine did with a batch."""

    #: One verdict per coordinator, in the order of `Batch.own`.
    coordinators: list[int] = field(default_factory=list)
    #: One verdict per shared record, in the order of `Batch.shared`.
    shared: list[int] = field(default_factory=list)
    #: Keys that the server said it deleted; in a dry run, that would go.
    deleted: int = 0
    #: Those of `Batch.unseen` that have a heartbeat by now. If there are any, nothing was done.
    newcomers: frozenset[bytes] = frozenset()
    #: A heartbeat changed while it was judged (Python engine), so nothing was done.
    contended: bool = False


class Engine(Protocol):
    """What decides and deletes."""

    @property
    def name(self) -> str:
        """``lua`` or ``python``, as the metrics show it."""

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Outcome:
        """Judge each coordinator of a batch and remove the keys of those that are stale.

        Raises what the client raises; nothing is sent twice.
        """


class ScriptingRefused(Exception):
    """Scripting itself is forbidden, missing or broken on this server; code without Lua may still do."""
