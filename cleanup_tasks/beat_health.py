"""The beat's sign of life: a file that is touched with every cleanup it has sent.

``python -m cleanup_tasks.beat_health`` is the health check: exit status 0 if that was within two intervals.
The start of the beat is no sign of life: its first cleanup follows at once.
"""

import sys
import time
from typing import Any

from celery import signals

from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.settings import BeatSettings
from cleanup_tasks.configuration.targets import intervals
from cleanup_tasks.schedule import CLEANUP

#: Intervals that may pass without a tick.
PATIENCE = 2


@signals.beat_init.connect
def _watch(**_: Any) -> None:
    """In a beat, and nowhere else, touch the file from now on."""
    signals.after_task_publish.connect(_touch, sender=CLEANUP, weak=False)


def _touch(**_: Any) -> None:
    path = BeatSettings.read().beat_path
    if path is not None:
        path.touch()


def fault() -> str | None:
    """What is wrong with the beat, or None."""
    path = BeatSettings.read().beat_path
    if path is None:
        return "CLEANUP_BEAT_FILE is not set"
    try:
        age_s = time.time() - path.stat().st_mtime
    except OSError as error:
        return f"the beat has sent no cleanup yet: {error}"
    allowed_s = PATIENCE * min(intervals().values())
    if not -1 <= age_s <= allowed_s:  # in the future where the clock was set back, and the beat waits
        return f"the beat last sent a cleanup {age_s:.0f} s ago, which is not within {allowed_s} s"
    return None


if __name__ == "__main__":
    try:
        sys.exit(fault())
    except InvalidSettings as error:
        sys.exit(str(error))
