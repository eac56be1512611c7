"""Whether the servers' clock goes on as evenly as this machine's, which nobody sets."""

import contextlib
import time
from pathlib import Path
from uuid import uuid4

from cleanup_tasks.sweep.notes import Note

#: A clock that gains or loses more than this from one look to the next was set.
JUMP_MS = 60_000

#: What tells this start of this machine from all others; where that can't be told, this process.
MACHINE = uuid4().hex
with contextlib.suppress(OSError):
    MACHINE = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
#: Runs from the start of the machine, where there is one that does so while it sleeps too.
_EVEN = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def jump_of(note: Note, now_ms: int) -> int:
    """How far the servers' clock has jumped since the look that is noted, in ms; 0: it has not.

    A machine that looks for the first time has its wall clock alone, which may be wrong.

    Args:
        note: how far ahead the servers' clock was when sweeps before looked at it; this look is noted too.
        now_ms: the servers' time in ms since the epoch.
    """
    ahead_ms = now_ms - time.clock_gettime_ns(_EVEN) // 1_000_000
    wall_ahead_ms = now_ms - time.time_ns() // 1_000_000
    jump_ms = 0
    if MACHINE in note.clocks:
        jump_ms = ahead_ms - note.clocks.pop(MACHINE)
    elif note.wall_ahead_ms is not None:
        jump_ms = wall_ahead_ms - note.wall_ahead_ms
    note.clocks[MACHINE] = ahead_ms  # as the last one, for the first ones are forgotten
    note.wall_ahead_ms = wall_ahead_ms
    return jump_ms if abs(jump_ms) > JUMP_MS else 0
