"""What others feel: a living coordinator that beats every millisecond, whatever became of the beats before.

One that waited for each answer would beat less often just when answers are slow, and hide it.
"""

import contextlib
import gc
import json
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection

import hiredis

from benchmarks.process import Running, ahead_of_others, running
from cleanup_tasks import keys

INTERVAL_S = 0.001
KEY = keys.heartbeat(b"beating-coordinator")
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
        """Latencies in seconds of what was sent in that time; ends the beating."""
        self._process.pipe.send("stop")
        rows: list[tuple[float, float]] = self._process.result()
        return [latency for sent_s, latency in rows if started_s <= sent_s <= ended_s]


def _beat(port: int, pipe: Connection) -> list[tuple[float, float]]:
    """When each beat was sent, and how long its answer took."""
    rows: list[tuple[float, float]] = []
    waiting: deque[float] = deque()
    gc.disable()
    ahead_of_others()
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due_s = time.perf_counter()
        while True:
            pause_s = max(0.0, due_s - time.perf_counter())
            readable, _, _ = select.select([server.fileno(), pipe.fileno()], [], [], pause_s)
            if server.fileno() in readable:
                answers = server.recv(65_536).count(b"\n")
                answered_s = time.perf_counter()
                sent = [waiting.popleft() for _ in range(answers)]
                rows += ((sent_s, answered_s - sent_s) for sent_s in sent)
            elif pipe.fileno() in readable:
                return rows
            elif time.perf_counter() >= due_s:
                waiting.append(time.perf_counter())
                server.sendall(_command())
                due_s += INTERVAL_S
                if len(waiting) + len(rows) == WARM_UP:
                    pipe.send("warm")


def _command() -> bytes:
    value = json.dumps({"coordinatorId": "b", "timestamp": int(time.time() * 1000)})
    command: bytes = hiredis.pack_command((b"SET", KEY, value))  # type: ignore[arg-type]
    return command


@contextlib.contextmanager
def beating(port: int) -> Iterator[Beats]:
    """A client that beats for the length of a with block."""
    with running(_beat, port, talks=True) as process:
        if (said := process.pipe.recv()) != "warm":
            raise RuntimeError(f"the beating client did not start: {said}")
        yield Beats(process)
