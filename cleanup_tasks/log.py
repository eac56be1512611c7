"""The log: the original's lines, in its form, in its file."""

import contextlib
import fcntl
import json
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from celery.utils.log import get_task_logger

from cleanup_tasks.report import Report

#: In a worker Celery's handlers show its lines too, with task name and id.
logger = get_task_logger("cleanup_tasks")

FORMAT = logging.Formatter("[%(asctime)s] [%(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S")

#: Bytes of a log file before it is rotated, and how many old ones are kept.
MAX_BYTES = 10_000_000
BACKUPS = 5


class _OneLine(logging.Filter):
    """An id may hold line ends or terminal codes; a line of the log is one line all the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not message.isprintable():
            record.msg = "".join(
                character if character.isprintable() else character.encode("unicode_escape").decode()
                for character in message
            )
            record.args = None
        return True


if not logger.filters:
    logger.addFilter(_OneLine())


class SharedFile(RotatingFileHandler):
    """A rotated file that several processes write to: a worker's children, other workers, the command.

    One of them rotates at a time, and the others follow to the new file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, with the folder locked; where that fails, standard error says so."""
        try:
            folder = os.open(Path(self.baseFilename).parent, os.O_RDONLY)
        except OSError:
            self.handleError(record)
            return
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._follow()
            super().emit(record)
        except OSError:
            self.handleError(record)
        finally:
            os.close(folder)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """A disk that is full costs one warning, and no sweep."""
        give_up(Path(self.baseFilename), sys.exc_info()[1])

    def _follow(self) -> None:
        """Open the file anew if another process, or logrotate, has moved it."""
        if self.stream is None:
            return
        try:
            moved = not os.path.samestat(os.fstat(self.stream.fileno()), Path(self.baseFilename).stat())
        except FileNotFoundError:
            moved = True
        if moved:
            self.stream.close()
            self.stream = None  # the next line opens it


#: Files that could not be written; a worker that runs for months says so once, and tries every sweep.
_warned: set[Path] = set()


def _close_log_file() -> None:
    for handler in [handler for handler in logger.handlers if isinstance(handler, SharedFile)]:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def give_up(path: Path, error: BaseException | None) -> None:
    """Go on without a log file."""
    _close_log_file()
    if path not in _warned:
        _warned.add(path)
        logger.warning("Log file can't be written, going on without: %s", error)


def open_log_file(path: Path | None) -> None:
    """Add the log file, if it is not there yet; one that can't be written costs one warning."""
    opened = [handler for handler in logger.handlers if isinstance(handler, SharedFile)]
    if path is None or any(Path(handler.baseFilename).exists() for handler in opened):
        return
    _close_log_file()
    try:
        path = path.expanduser().absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = SharedFile(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home
        give_up(path, error)
        return
    handler.setFormatter(FORMAT)
    logger.addHandler(handler)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))


def log_report(report: Report) -> None:
    """Write the lines that people and other programs read."""
    if report.skipped:
        logger.info("Cleanup skipped: %s", report.skipped)
        return
    if report.complete and not report.total_coordinators_checked and not report.orphaned_coordinators_found:
        logger.info("No coordinator heartbeats found")
        logger.info("Cleanup complete (nothing to do)")
        return
    logger.info("Cleanup Summary%s:", " (dry run, nothing was deleted)" if report.dry_run else "")
    logger.info("  Implementation: %s", report.implementation)
    if report.fallback_reason:
        logger.info("  Fallback reason: %s", report.fallback_reason)
    logger.info("  Total coordinators checked: %d", report.total_coordinators_checked)
    logger.info("  Active coordinators: %d", report.active_coordinators)
    logger.info("  Unreadable heartbeats: %d", report.unreadable_heartbeats)
    logger.info("  Stale coordinators found: %d", report.stale_coordinators_found)
    logger.info("  Revived coordinators: %d", report.revived_coordinators)
    logger.info("  Orphaned coordinators found: %d", report.orphaned_coordinators_found)
    logger.info("  Orphaned coordinators reaped: %d", report.orphaned_coordinators_reaped)
    logger.info("  Keys deleted: %d", report.keys_deleted)
    logger.info("  Cleanup errors: %d", report.cleanup_errors)
    logger.info("  Execution time: %dms", report.execution_time_ms)
    # The number once more as the last word, for that is what the old guide's awk takes.
    rate = report.coordinators_per_second
    logger.info("  Performance: %.2f coordinators/sec = %.2f", rate, rate)
    if report.complete:
        logger.info("Cleanup completed successfully")
    else:
        logger.error("Cleanup incomplete: the next run goes on")


def log_summary(report: Report, outcome: str, form: Literal["keyvalue", "json"]) -> None:
    """Write one line for machines: how the sweep ended and its numbers, as key=value or JSON."""
    fields = {
        "outcome": outcome,
        "engine": report.implementation,
        "dry_run": report.dry_run,
        "checked": report.total_coordinators_checked,
        "active": report.active_coordinators,
        "stale": report.stale_coordinators_found,
        "revived": report.revived_coordinators,
        "unreadable": report.unreadable_heartbeats,
        "orphans": report.orphaned_coordinators_found,
        "orphans_reaped": report.orphaned_coordinators_reaped,
        "keys_deleted": report.keys_deleted,
        "errors": report.cleanup_errors,
        "duration_ms": report.execution_time_ms,
        "threshold_s": report.stale_threshold_seconds,
        "reason": report.skipped or report.fallback_reason,
    }
    if form == "json":
        logger.info("%s", json.dumps({"event": "cleanup_sweep", **fields}))
    else:
        # JSON also spells a single value so that a text with blanks or quotes stays one value.
        logger.info("cleanup_sweep %s", " ".join(f"{key}={_value(value)}" for key, value in fields.items()))


def _value(value: object) -> str:
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
