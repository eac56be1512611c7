"""The log: the original's lines, in its form."""

import contextlib
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from celery import current_task
from celery.utils.log import get_task_logger

from cleanup_tasks.reporting.durations import in_words
from cleanup_tasks.reporting.report import DEFAULT_TARGET, Report
from cleanup_tasks.rules.keys import text

#: Level and handlers of this one are the host's: in a worker Celery's handlers show our lines, with task
#: name and id.
HOST = get_task_logger("cleanup_tasks")
#: What we write to. Its level may be lower than the host's, for the sake of the log file.
logger = HOST.getChild("log")

FORMAT = logging.Formatter("[%(asctime)s] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S")

#: For `extra`: a line about one coordinator, of which there may be many; people see it on request.
DETAIL = {"is_detail": True}


#: The target that a sweep of this thread works on.
_target = ContextVar("target", default=DEFAULT_TARGET)


@contextlib.contextmanager
def about(target: str) -> Iterator[None]:
    """Begin each line that is written meanwhile with the target's name, but for ``default``."""
    before = _target.set(target)
    try:
        yield
    finally:
        _target.reset(before)


class _OneLine(logging.Filter):
    """Says whose line it is. An id may hold line ends or terminal codes; a line is one line all the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if _target.get() != DEFAULT_TARGET:
            message = f"[{_target.get()}] {message}"
        record.msg, record.args = printable(message), None
        if not current_task:  # else Celery's formatter shows question marks in the place of these
            record.task_name, record.task_id = "cleanup_tasks", "-"
        return True


def printable(line: str) -> str:
    """A text on one line, with escapes in place of what a terminal would not show or obey."""
    if line.isprintable():
        return line
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )


if not logger.filters:
    logger.addFilter(_OneLine())


def log_report(report: Report) -> None:
    """Write the lines that people and other programs read; a dry run says so in each of them."""
    dry, would = ("[DRY-RUN] ", " (would be)") if report.dry_run else ("", "")

    def info(line: str, *values: object) -> None:
        logger.info("%s" + line, dry, *values)

    if report.skipped:
        info("Cleanup skipped: %s", report.skipped)
        return
    if report.complete and not report.total_coordinators_checked and not report.orphaned_coordinators_found:
        info("No coordinator heartbeats found")
        info("Cleanup complete (nothing to do)")
        return
    info("Cleanup Summary%s:", " (dry run, nothing was deleted)" if report.dry_run else "")
    info("  Implementation: %s", report.implementation)
    if report.fallback_reason:
        info("  Fallback reason: %s", report.fallback_reason)
    info("  Total coordinators checked: %d", report.total_coordinators_checked)
    info("  Active coordinators: %d", report.active_coordinators)
    info("  Unreadable heartbeats: %d", report.unreadable_heartbeats)
    for reason, number in report.unreadable_by_reason.items():
        info("    %s: %d, for example %s", reason, number, text(report.unreadable_examples[reason]))
    info("  Stale coordinators found: %d", report.stale_coordinators_found)
    info("  Revived coordinators: %d", report.revived_coordinators)
    info("  Orphaned coordinators found: %d", report.orphaned_coordinators_found)
    reaped = "that would be reaped" if report.dry_run else "reaped"
    info("  Orphaned coordinators %s: %d", reaped, report.orphaned_coordinators_reaped)
    if report.next_orphan_due_seconds is not None:
        due = in_words(report.next_orphan_due_seconds)
        info("  Orphaned coordinators waiting: %d (due in %s)", report.orphaned_coordinators_waiting, due)
    if report.orphans_not_noted:
        info("  Orphaned coordinators: %s", not_noted(report))
    info("  Keys deleted: %d%s", report.keys_deleted, would)
    info("  Cleanup errors: %d", report.cleanup_errors)
    info("  Execution time: %dms", report.execution_time_ms)
    # The number once more as the last word, for that is what the old guide's awk takes.
    rate = report.coordinators_per_second
    info("  Performance: %.2f coordinators/sec = %.2f", rate, rate)
    if report.held:
        _log_hold(report, dry)
    elif not report.complete:
        # people are told by a row of the summary, beside the line that says why
        extra = DETAIL if report.failure else None
        logger.error("%sCleanup incomplete: the next run goes on", dry, extra=extra)
    elif report.dry_run:
        info("Cleanup completed successfully: would delete %d keys, deleted none", report.keys_deleted)
    else:
        info("Cleanup completed successfully")
    if report.complete and report.unreadable_heartbeats == report.total_coordinators_checked > 0:
        logger.warning("No heartbeat could be read, so nobody was judged; --explain shows why")


def not_noted(report: Report) -> str:
    """How many orphans nobody has noted yet, and what would do it."""
    which = "real" if report.dry_run else "later"
    return f"{report.orphans_not_noted:,} not noted yet (a {which} sweep with --orphans reap does that)"


def log_failure(why: str, *, connected: bool) -> None:
    """Write why a sweep failed, and that nothing was done where the server never answered."""
    if connected:
        logger.error("Cleanup failed: %s", why)
    else:
        logger.error("Redis connection failed: %s", why)
        logger.error("Cleanup aborted")


def _log_hold(report: Report, dry: str) -> None:
    """Why a sweep was held, when that ends, and what to do; people are told by a row of the summary."""

    def warn(line: str, *arguments: object) -> None:
        logger.warning(f"%s{line}", dry, *arguments, extra=DETAIL)

    warn("Cleanup held: %s", report.held)
    if report.dry_run:  # which notes no hold, so nothing has begun that would end
        warn("A real run would also delete nothing, unless with --force or cleanup.delay(force=True)")
    else:
        ends = f"at {utc(report.held_until_ms)} if nothing changes, or " if report.held_until_ms else ""
        warn("Held since %s; goes on %s30 s after somebody was seen to beat", utc(report.held_since_ms), ends)
    warn("Can the coordinators reach Redis? Does its clock agree with theirs?")
    if not report.dry_run:
        warn("To go on at once: --force or cleanup.delay(force=True)")


def utc(time_ms: int | None) -> str:
    """A time in ms since the epoch as people read it."""
    return datetime.fromtimestamp((time_ms or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def log_summary(report: Report, outcome: str, form: Literal["keyvalue", "json"]) -> None:
    """Write one line for machines: how the sweep ended and its numbers, as key=value or JSON, and no more."""
    fields = {
        "outcome": outcome,
        "target": report.target,
        "engine": report.implementation,
        "dry_run": report.dry_run,
        "checked": report.total_coordinators_checked,
        "active": report.active_coordinators,
        "stale": report.stale_coordinators_found,
        "revived": report.revived_coordinators,
        "unreadable": report.unreadable_heartbeats,
        "ahead": report.heartbeats_ahead,
        "unreadable_reasons": " ".join(map("%s:%d".__mod__, report.unreadable_by_reason.items())) or None,
        "orphans": report.orphaned_coordinators_found,
        "orphans_reaped": report.orphaned_coordinators_reaped,
        "keys_deleted": report.keys_deleted,
        "errors": report.cleanup_errors,
        "duration_ms": report.execution_time_ms,
        "threshold_s": report.stale_threshold_seconds,
        "reason": report.skipped or report.held or report.failure or report.fallback_reason,
    }
    if form == "json":
        text = json.dumps({"event": "cleanup_sweep", **fields})
    else:
        # JSON also spells a single value so that a text with blanks or quotes stays one value.
        text = "cleanup_sweep " + " ".join(f"{key}={_value(value)}" for key, value in fields.items())
    with about(DEFAULT_TARGET):
        logger.info("%s", text)


def _value(value: object) -> str:
    return value if isinstance(value, str) and value.replace("-", "_").isidentifier() else json.dumps(value)
