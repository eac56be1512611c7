"""Standard output and error that never fail: a sweep goes on, whoever has stopped reading."""

import io
import os
import select
import sys
from typing import Any, TextIO


class _NeverFailing(io.FileIO):
    """What can't be written is dropped, and the reason is kept."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            # None: a pipe that another program has made non-blocking is full
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            return len(data)
        return written


def use_streams_that_never_fail() -> None:
    """Put them in place of `sys.stdout` and `sys.stderr`.

    A character that their encoding doesn't have is shown as its escape. One that is closed is opened on
    nothing, so that no connection gets its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def _stream(number: int, replaced: TextIO | None) -> TextIO:
    raw = _NeverFailing(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=replaced.encoding if replaced else "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def failure_of_stdout() -> OSError | None:
    """Why something was not written to standard output, or None; that nobody reads any more is no failure."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _NeverFailing) else None
    return None if isinstance(failure, BrokenPipeError) else failure
