"""What the command prints, and where."""

import logging
import sys

from cleanup_tasks.reporting.log import FORMAT, logger


class LogLines(logging.Handler):
    """The log's lines: errors on standard error, others on standard output.

    With --json standard output is for the metrics alone, and only warnings are shown beside the errors.
    """

    def __init__(self, *, as_json: bool) -> None:
        """Lines in the log's form."""
        super().__init__(logging.WARNING if as_json else logging.NOTSET)
        self._as_json = as_json
        self.setFormatter(FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        to_stderr = self._as_json or record.levelno >= logging.ERROR
        print(self.format(record), file=sys.stderr if to_stderr else sys.stdout)


def show_log(handler: logging.Handler, *, verbose: bool) -> None:
    """Show the log's lines by this handler, and by no other but the log file's."""
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
