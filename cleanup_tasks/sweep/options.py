"""The inputs of a sweep."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.reporting.report import DEFAULT_TARGET, REQUESTED, PreviousAttempts
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.servers.url import Address

#: What a sweep does about coordinators of which only related keys are left.
OrphansMode = Literal["off", "report", "reap"]

#: Called with what is being done, how much of it is done, and how much there is (0: not known).
Progress = Callable[[str, int, int], None]


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What one sweep does, and where. Nothing of it changes while it runs."""

    #: The coordination Redis, and what it is called.
    address: Address
    target: str = DEFAULT_TARGET
    tls: Tls = field(default_factory=Tls)
    dry_run: bool = False
    #: Silence in seconds after which a coordinator is stale.
    threshold_s: int = 600
    orphans: OrphansMode = "off"
    engine: EngineName = "lua"
    #: Why the Python engine is used, or None.
    fallback_reason: str | None = None
    #: Goes on where a sweep would be held, or skipped since the server came up a moment ago.
    force: bool = False
    #: Holds where so many percent of the coordinators, or more, look dead; 0: never.
    hold_percent: int = 100
    #: Skips a server that came up with its data less than so many seconds ago; 0: never.
    restart_grace_s: int = 60
    #: How often sweeps are due, in seconds.
    interval_s: int = 300
    #: The same where beat asks for it, as beat says; None where somebody else does.
    beat_interval_s: float | None = None
    #: The lock's token, another one for each attempt of a task; and that of the attempt before this one.
    owner: str = field(default_factory=lambda: uuid4().hex)
    previous_owner: str | None = None
    #: How many coordinators a sweep names in the log, of each kind; None: all.
    max_named: int | None = None
    #: What attempts before this one did for good.
    previous: PreviousAttempts = field(default_factory=PreviousAttempts)
    #: Whether another attempt follows where this one fails for a reason that may pass.
    is_retried: bool = False
    progress: Progress = no_progress
    #: Whether to ask how many keys there are, for whoever shows the progress of a scan.
    wants_total: bool = False
    #: The log file, perhaps with a ``~``, or None; and the form of the summary line.
    log_path: Path | None = None
    log_format: Literal["keyvalue", "json"] = "keyvalue"

    @property
    def refusal(self) -> str | None:
        """Why the Lua engine could not work, where the Python engine takes its place."""
        reason = self.fallback_reason
        return None if reason is None or reason.startswith(REQUESTED) else reason
