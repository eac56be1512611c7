"""Whether the servers' clock goes on as evenly as this machine's, which nobody sets."""

import contextlib
import time
from pathlib import Path

#: A clock that gains or loses more than this from one look to the next was set.
JUMP_MS = 60_000

#: What tells this start of this machine from all others; empty where that can't be told.
MACHINE = ""
with contextlib.suppress(OSError):
    MACHINE = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
#: Runs from the start of the machine, where there is one that does so while it sleeps too.
_EVEN = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Compares the servers' time with this machine's, from look to look."""

    def __init__(self, ahead_ms: int | None) -> None:
        """`ahead_ms`: what an earlier sweep on this machine noted as `ahead_ms`, None where none did."""
        #: How far the servers' time is ahead of this machine's, in ms.
        self.ahead_ms = ahead_ms

    def look(self, now_ms: int) -> int:
        """How far the servers' clock has jumped since the look before, in ms; 0: it has not.

        Args:
            now_ms: the servers' time in ms since the epoch.
        """
        ahead_ms = now_ms - time.clock_gettime_ns(_EVEN) // 1_000_000
        jump_ms = 0 if self.ahead_ms is None else ahead_ms - self.ahead_ms
        self.ahead_ms = ahead_ms
        return jump_ms if abs(jump_ms) > JUMP_MS else 0
