"""What others feel: a living coordinator that beats every millisecond, and waits for each answer."""

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from redis import Redis

from benchmarks.process import Running, running
from cleanup_tasks import keys

INTERVAL_S = 0.001
#: Beats before anything is measured.
WARM_UP = 50


class Beats:
    """The client, while it beats."""

    #: Keys that it writes.
    KEYS = 1

    def __init__(self, process: Running) -> None:
        """`process` runs `_beat`."""
        self._process = process

    def between(self, started_s: float, ended_s: float) -> list[float]:
        """Latencies in seconds of what was due in that time; ends the beating."""
        self._process.pipe.send("stop")
        rows: list[tuple[float, float]] = self._process.result()
        return [latency for due_s, latency in rows if started_s <= due_s <= ended_s]


def _beat(port: int, pipe: Connection) -> list[tuple[float, float]]:
    """When each beat was due, and how long its answer took."""
    rows = []
    gc.disable()
    key = keys.heartbeat(b"beating-coordinator")
    with Redis(port=port) as client:
        due_s = free_s = time.perf_counter()
        while not pipe.poll():
            if due_s > free_s:
                time.sleep(due_s - free_s)
            # A beat that had to wait for the one before is late since it was due; a timer's lateness
            # is nobody's fault.
            since_s = due_s if free_s > due_s else time.perf_counter()
            client.set(key, json.dumps({"coordinatorId": "b", "timestamp": int(time.time() * 1000)}))
            free_s = time.perf_counter()
            rows.append((due_s, free_s - since_s))
            due_s += INTERVAL_S
            if len(rows) == WARM_UP:
                pipe.send("warm")
    return rows


@contextlib.contextmanager
def beating(port: int) -> Iterator[Beats]:
    """A client that beats for the length of a with block."""
    with running(_beat, port, talks=True) as process:
        if (said := process.pipe.recv()) != "warm":
            raise RuntimeError(f"the beating client did not start: {said}")
        yield Beats(process)
