"""Ctrl-C between two steps and never within one, so that no process is started without being known."""

import contextlib
import signal
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: The signals that came and were not acted upon yet.
_pending: list[int] = []


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal are noted; `checkpoint` then raises KeyboardInterrupt.

    A KeyboardInterrupt anywhere could come after a process was started and before anybody has noted that it
    has to be stopped. Stopping has no checkpoint, so a second Ctrl-C does not disturb it.
    """
    before = {number: signal.signal(number, lambda number, _: _pending.append(number)) for number in SIGNALS}
    try:
        yield
        checkpoint()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _pending.clear()


def checkpoint() -> None:
    """Raise KeyboardInterrupt if a signal came since the last one."""
    if _pending:
        _pending.clear()
        raise KeyboardInterrupt


def pause(seconds: float) -> None:
    """Sleep, and end early with KeyboardInterrupt where a signal comes."""
    deadline = time.monotonic() + seconds
    checkpoint()
    while (rest := deadline - time.monotonic()) > 0:
        time.sleep(min(rest, 0.02))
        checkpoint()
