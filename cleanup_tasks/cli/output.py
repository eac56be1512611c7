"""What the command shows while it sweeps, and where: log lines, or for people just warnings and a bar."""

import logging
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from cleanup_tasks.reporting.log import FORMAT, logger


@dataclass(frozen=True, slots=True)
class Style:
    """How the command speaks."""

    #: Print the metrics alone, as JSON.
    as_json: bool
    #: A line for each coordinator and key.
    verbose: bool

    @property
    def is_for_people(self) -> bool:
        """Whether a few sentences are shown in place of the log's lines."""
        return sys.stdout.isatty() and not self.verbose and not self.as_json

    @property
    def shows_log(self) -> bool:
        """Whether standard output has the log's lines."""
        return not (self.as_json or self.is_for_people)


#: Columns of a pipe or a file. Whatever reads it looks for whole names in its lines.
_UNLIMITED = 100_000


def console(*, stderr: bool = False) -> Console:
    """Standard output or error for people. Texts are shown as they are, for an id may look like markup."""
    made = Console(stderr=stderr, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _UNLIMITED
    return made


def show_log(style: Style, stderr: Console) -> None:
    """Show the log as this style has it, and nowhere else but in the log file."""
    logger.addHandler(_Brief(stderr) if style.is_for_people else _Lines(style))
    logger.setLevel(logging.DEBUG if style.verbose else logging.INFO)
    logger.propagate = False


class _Lines(logging.Handler):
    """The log's lines: errors on standard error, others on standard output; --json has that for itself."""

    def __init__(self, style: Style) -> None:
        super().__init__(logging.NOTSET if style.shows_log else logging.WARNING)
        self._to_stderr = logging.ERROR if style.shows_log else logging.WARNING
        self.setFormatter(FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= self._to_stderr else sys.stdout
        print(self.format(record), file=stream, flush=True)


class _Brief(logging.Handler):
    """Warnings and errors for people, above the progress bar if there is one."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        self.addFilter(lambda record: not getattr(record, "is_detail", False))

    def emit(self, record: logging.LogRecord) -> None:
        is_error = record.levelno >= logging.ERROR
        head = ("Error: ", "bold red") if is_error else ("Warning: ", "yellow")
        self._console.print(Text.assemble(head, record.getMessage()))
