"""What others feel: a living coordinator that beats every millisecond, whatever became of the beats before.

One that waited for each answer would beat less often just when answers are slow, and hide it.
"""

import contextlib
import gc
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

from benchmarks.dataset import LIVING
from benchmarks.place import pin

COMMAND = f'SET blocking:heartbeat:{LIVING}-beating \'{{"coordinatorId":"b","timestamp":%d}}\'\r\n'


def _beat(port: int, end: threading.Event, beats: list[tuple[float, float]]) -> None:
    """Beat until the end."""
    pin(0)
    with contextlib.suppress(AttributeError, PermissionError):  # ahead of others, where we may (root)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    gc.disable()  # for the rest of the benchmark: it would hold the beats up
    sent: deque[float] = deque()
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due_s = time.perf_counter()
        while not end.is_set():
            pause_s = max(0.0, due_s - time.perf_counter())
            if select.select([server], [], [], pause_s)[0]:
                answers = server.recv(65_536).count(b"\n")
                now_s = time.perf_counter()
                beats += ((sent_s, now_s - sent_s) for sent_s in (sent.popleft() for _ in range(answers)))
            else:
                sent.append(time.perf_counter())
                server.sendall((COMMAND % (time.time() * 1000)).encode())
                due_s += 0.001


@contextlib.contextmanager
def beating(port: int) -> Iterator[list[tuple[float, float]]]:
    """A client of a server that beats for the length of a with block.

    Gives a list that grows: when each beat was sent, by `time.perf_counter`, and how many seconds it took.
    """
    beats: list[tuple[float, float]] = []
    end = threading.Event()
    thread = threading.Thread(target=_beat, args=(port, end, beats))
    thread.start()
    try:
        yield beats
    finally:
        end.set()
        thread.join()
