"""The log: the original's lines, in its form, in its file."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

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


def open_log_file(path: Path | None) -> None:
    """Add the log file, once per process; one that can't be written costs a warning."""
    if path is None or any(isinstance(handler, RotatingFileHandler) for handler in logger.handlers):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")
    except OSError as error:
        logger.warning("Log file can't be written, going on without: %s", error)
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
    logger.info("  Performance: %.2f coordinators/sec", report.coordinators_per_second)
    if report.complete:
        logger.info("Cleanup completed successfully")
    else:
        logger.error("Cleanup incomplete: the next run goes on")
