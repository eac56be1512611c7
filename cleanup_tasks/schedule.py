"""When beat sends a cleanup: on the wall clock, and once soon after its own start."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from celery.schedules import schedstate, schedule

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.reporting.report import DEFAULT_TARGET

CLEANUP = "cleanup_tasks.cleanup"
FALLBACK = "cleanup_tasks.cleanup_fallback"
ENGINE_OF_TASK: dict[str, EngineName] = {CLEANUP: "lua", FALLBACK: "python"}
#: What beat's entry is called; a target's name comes after it.
ENTRY = "cleanup-blocking-coordination"
#: The header of a message of beat's that says how often it sends one, in seconds.
INTERVAL_HEADER = "x-cleanup-interval"
MAX_INTERVAL_S = 999_999_999


class WallClock(schedule):
    """Due once in each interval of the wall clock, however often beat starts anew in between.

    Every 300 seconds is at :00, :05, :10 and so on. Each look stands for itself, so that a clock that jumps
    costs one interval at most.
    """

    def __init__(self, interval_s: float, offset_s: float = 0, *, app: Any = None) -> None:
        """Every `interval_s` seconds since the epoch, and `offset_s` seconds later than that."""
        super().__init__(interval_s, app=app)
        self.offset_s = offset_s

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether the interval is another one than that of the last time, and the seconds until the next."""
        now_s = self.now().timestamp() - self.offset_s
        last_s = self.maybe_make_aware(last_run_at).timestamp() - self.offset_s
        return schedstate(
            now_s // self.seconds != last_s // self.seconds, self.seconds - now_s % self.seconds
        )

    def __eq__(self, other: object) -> bool:
        """Whether it is the same schedule; beat compares entries when it looks for a change."""
        return isinstance(other, WallClock) and self.__reduce__() == other.__reduce__()

    def __reduce__(self) -> tuple[type, tuple[float, float]]:
        """What it is made of, also for a beat that keeps a file."""
        return type(self), (self.seconds, self.offset_s)


def beat_entries(
    intervals: Mapping[str, float], *, limited: bool = True, **options: Any
) -> dict[str, dict[str, Any]]:
    """An entry of `beat_schedule` for each target; they are spread over the interval.

    Messages have no `expires`: that is an instant by beat's clock, and a worker whose clock is ahead would
    revoke every one. Messages that have piled up do no harm, see `sweep.cooldown`.

    Args:
        intervals: target -> seconds between its sweeps.
        limited: whether a sweep has the time limits of its target's interval.
        options: for apply_async, of all of them.
    """
    entries = {}
    for number, (target, interval_s) in enumerate(intervals.items()):
        limits = time_limits(interval_s) if limited else {}
        entry = {
            "task": CLEANUP,
            "schedule": WallClock(interval_s, offset_s=interval_s * number / len(intervals)),
            # Long ago: so the first is sent at beat's start.
            "last_run_at": datetime.fromtimestamp(0, UTC),
            "options": {"headers": {INTERVAL_HEADER: interval_s}, **limits, **options},
        }
        if target == DEFAULT_TARGET:
            entries[ENTRY] = entry
        else:
            entries[f"{ENTRY}-{target}"] = {**entry, "kwargs": {"target": target}}
    return entries


def time_limits(interval_s: float) -> dict[str, float]:
    """Soft and hard time limit in seconds, below the interval: a stuck sweep never meets the next."""
    return {"soft_time_limit": 0.8 * interval_s, "time_limit": 0.9 * interval_s}


def is_interval(value: object) -> bool:
    """Whether it is a number of seconds that sweeps can be due in."""
    return type(value) in (int, float) and 1 <= value <= MAX_INTERVAL_S  # type: ignore[operator]


def interval_of(headers: Mapping[str, Any] | None) -> float | None:
    """How often beat sends such a message, in seconds; None where no entry of ours did."""
    interval_s = (headers or {}).get(INTERVAL_HEADER)
    return interval_s if is_interval(interval_s) else None
