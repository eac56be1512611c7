"""The log file: several processes add their lines to it, and logrotate or somebody else rotates it."""

import logging
import os
import sys
import threading
from logging.handlers import WatchedFileHandler
from pathlib import Path

from cleanup_tasks.reporting.log import FORMAT, HOST, logger


class LogFile(WatchedFileHandler):
    """A file that is opened anew where it was renamed, and given up where it can't be written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; where that fails, one warning says so."""
        try:
            super().emit(record)
        except OSError:  # the standard handler opens the file anew outside of its own error handling
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """A disk that is full costs one warning, and no sweep."""
        give_up(Path(self.baseFilename), sys.exc_info()[1])


#: Sweeps of several threads share the file.
_OPENING = threading.Lock()
#: Files that could not be written; a worker that runs for months says so once, and tries every sweep.
_warned: set[Path] = set()


def _opened() -> list[LogFile]:
    return [handler for handler in logger.handlers if isinstance(handler, LogFile)]


def _close_log_file() -> None:
    for handler in _opened():
        logger.removeHandler(handler)
        try:
            handler.close()
        except OSError:
            continue  # a full disk again, at the last flush


def give_up(path: Path, error: BaseException | None) -> None:
    """Go on without a log file."""
    _close_log_file()
    if path not in _warned:
        _warned.add(path)
        logger.warning("Log file can't be written, going on without: %s", error)


def _is_for_the_host(record: logging.LogRecord) -> bool:
    """A filter of our logger: what the host's level hides goes to the log file alone."""
    if HOST.isEnabledFor(record.levelno) or not logger.propagate:
        return True
    for handler in _opened():
        handler.handle(record)
    return False


def open_log_file(path: Path | None) -> None:
    """Add the log file, if it is not there yet; one that can't be written costs one warning."""
    with _OPENING:
        if path is None or any(Path(handler.baseFilename).exists() for handler in _opened()):
            return
        _close_log_file()
        try:
            path = path.expanduser().absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            # A pipe that nobody reads is refused here; the handler would wait for a reader for ever.
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666))
            handler = LogFile(path, encoding="utf-8")
        except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home
            give_up(path, error)
            return
        handler.setFormatter(FORMAT)
        logger.addHandler(handler)
        logger.addFilter(_is_for_the_host)
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
