"""Signals and the time limit: what is under way comes to its end, and what was done is told."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from cleanup_tasks.reporting.durations import in_words
from cleanup_tasks.sweep.sweep import Sweep

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal or the time limit asks the command to stop. It takes the way of Ctrl-C through a sweep."""


class Stopping:
    """Whether the command has to stop, and when a sweep is told."""

    def __init__(self, limit_s: float = 0) -> None:
        """No signal yet; the time limit, in seconds from now, is looked at by `check`. 0: none."""
        self._limit_s = limit_s or math.inf
        self._began_s = time.monotonic()
        #: The signal's number, or None.
        self.signal: int | None = None
        self._sweep: Sweep | None = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the signals, but for those that the command was started to ignore (nohup)."""
        ours = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = [signal.signal(number, self._stop) for number in ours]
        try:
            yield
        finally:
            if self.signal is None:  # else the command ends with that one's status, whatever comes meanwhile
                for number, handler in zip(ours, before, strict=True):
                    signal.signal(number, handler)

    def begin(self, sweep: Sweep) -> None:
        """Interrupt this sweep from now on; raises Stopped where it should not begin.

        In another thread than the main one nothing is interrupted; a sweep there calls `check`.
        """
        if threading.current_thread() is threading.main_thread():
            self._sweep = sweep
        self.check()

    def check(self) -> None:
        """Raise Stopped after the time limit, or a signal: library code may swallow what a signal raises."""
        if self.signal is not None:
            raise Stopped(f"stopped by {signal.Signals(self.signal).name}")
        if time.monotonic() - self._began_s > self._limit_s:
            raise Stopped(f"stopped after its time limit of {in_words(self._limit_s)}; see --timeout")

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            return  # it is stopping; a closed terminal sends more than one
        self.signal = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C once more ends it at once
        if self._sweep is not None and not self._sweep.has_ended:
            self.check()
