"""The metrics dict: typed inside, the original's camelCase names outside."""

from collections import Counter
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from cleanup_tasks.rules.keys import text

#: What the target is called that has no name of its own.
DEFAULT_TARGET = "default"
#: How `fallback_reason` begins where somebody has asked for the Python engine, so nothing was wrong.
REQUESTED = "requested"
#: An id, which is text in the metrics dict.
Id = Annotated[bytes, PlainSerializer(text)]
#: A count of what was done for good: the attempts of a task or command add theirs up.
Done = Annotated[int, "done"]
#: A count of what the next attempt may find again: it is counted once.
Found = Annotated[int, "found"]


class PreviousAttempts(Counter[str]):
    """What earlier attempts of the same task or command did and found: fields in `HANDED_ON` -> how many."""

    @property
    def has_changed_something(self) -> bool:
        """Whether keys were deleted, or may have been."""
        return bool(self["keys_deleted"] or self["cleanup_errors"])


class Report(BaseModel):
    """What one sweep did, in the order in which the metrics show it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    #: The name of the coordination Redis.
    target: str = DEFAULT_TARGET
    #: active + stale + unreadable
    total_coordinators_checked: Found = 0
    #: Stale when found, whatever became of them.
    stale_coordinators_found: Found = 0
    #: Keys that the server said it deleted; in a dry run, that would go.
    keys_deleted: Done = 0
    #: Wall time in ms.
    execution_time_ms: int = 0
    coordinators_per_second: float = 0.0
    dry_run: bool = False
    #: ``lua`` or ``python``
    implementation: str = "lua"
    #: Why the Python engine ran, or None.
    fallback_reason: str | None = None
    stale_threshold_seconds: int
    active_coordinators: int = 0
    #: Kept, for their heartbeat says nothing we understand.
    unreadable_heartbeats: Found = 0
    #: Active, by a heartbeat 60 s or more ahead of the server's clock.
    heartbeats_ahead: Found = 0
    #: How many of these there are of each kind, see `rules.staleness.EXPLANATIONS`.
    unreadable_by_reason: dict[str, int] = Field(default_factory=dict)
    #: The first one of each kind.
    unreadable_examples: dict[str, Id] = Field(default_factory=dict)
    #: Stale when found, no longer so when the engine looked: kept.
    revived_coordinators: Found = 0
    #: Steps of which the end is not known, or that were given up.
    cleanup_errors: Done = 0
    #: Every stale coordinator was dealt with, and the numbers are exact.
    complete: bool = False
    #: Why nothing was done, or None.
    skipped: str | None = None
    #: Why nothing was deleted though some look dead, or None.
    held: str | None = None
    #: Since when, and until when at most, in ms by the server's clock; None where that can't be told.
    held_since_ms: int | None = None
    held_until_ms: int | None = None
    #: Why it did not come to its end, or None.
    failure: str | None = None
    #: Ids that related keys name and that have no heartbeat; 0 where nobody looked.
    orphaned_coordinators_found: int = 0
    orphaned_coordinators_reaped: Done = 0
    #: Orphans that were noted too short a time ago to be reaped; 0 where none is to be reaped.
    orphaned_coordinators_waiting: int = 0
    #: Seconds until the first of these may be reaped, or None.
    next_orphan_due_seconds: int | None = None
    #: Part of `keys_deleted`.
    orphan_keys_deleted: Done = 0
    stale_coordinator_ids: list[Id] = Field(default_factory=list)
    stale_coordinator_ids_omitted: int = 0

    #: Coordinators whose heartbeat this attempt removed; not shown.
    reaped: Done = Field(default=0, exclude=True)
    #: Orphans that a later sweep has to note before they can be reaped; not shown.
    orphans_not_noted: int = Field(default=0, exclude=True)

    def add(self, previous: PreviousAttempts) -> None:
        """Count what earlier attempts did, so that the report speaks of all of them."""
        for field, kind in HANDED_ON.items():
            if kind == "done":
                setattr(self, field, getattr(self, field) + previous[field])
        # who is gone is not found again
        self.total_coordinators_checked += previous["reaped"]
        self.stale_coordinators_found += previous["reaped"]
        self.stale_coordinator_ids_omitted += previous["reaped"]
        self.orphaned_coordinators_found += previous["orphaned_coordinators_reaped"]
        self.complete = self.complete and not self.cleanup_errors

    def finish(self, elapsed_s: float) -> None:
        """Note how long it took."""
        self.execution_time_ms = round(elapsed_s * 1000)
        if elapsed_s > 0:
            self.coordinators_per_second = round(self.total_coordinators_checked / elapsed_s, 2)

    def metrics(self, max_ids: int | None = None) -> dict[str, Any]:
        """The metrics dict with at most `max_ids` ids (None: all); JSON whatever bytes the ids hold."""
        shown = self.stale_coordinator_ids[:max_ids]
        omitted = self.stale_coordinator_ids_omitted + len(self.stale_coordinator_ids) - len(shown)
        ids = {"stale_coordinator_ids": shown, "stale_coordinator_ids_omitted": omitted}
        return self.model_copy(update=ids).model_dump(by_alias=True)


#: The fields that an attempt hands on to the next one, and of which kind each is, see `Done` and `Found`.
HANDED_ON = {
    name: kind
    for name, field in Report.model_fields.items()
    for kind in field.metadata
    if kind in ("done", "found")
}
