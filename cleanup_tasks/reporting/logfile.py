"""The log file, which several processes share."""

import contextlib
import fcntl
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from cleanup_tasks.reporting.log import FORMAT, logger

#: Bytes of a log file before it is rotated, and how many old ones are kept.
MAX_BYTES = 10_000_000
BACKUPS = 5


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
