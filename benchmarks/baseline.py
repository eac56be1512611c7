"""What a sweep is measured against: ``python -m benchmarks.baseline NAME``.

Prints how many ms it took, in the form of a sweep's report. Each runs in a process of its own, as sweeps do.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import cast

from redis import Redis

from benchmarks.dataset import LIVING

#: COUNT of SCAN. Of 1,000, 5,000 and 20,000, with and without MATCH, this without MATCH was the fastest.
COUNT = 5_000
#: Keys that are deleted by one pipeline.
PIPELINED = 100_000


def scan(client: Redis, pattern: str | None = None) -> Iterator[list[bytes]]:
    """The pages of one pass over the keyspace."""
    cursor = -1
    while cursor:
        cursor, page = cast(tuple[int, list[bytes]], client.scan(max(cursor, 0), pattern, COUNT))
        yield page


def floor(client: Redis, step: int) -> None:
    """One pass, then pipelined UNLINKs of so many keys each; only names are looked at."""
    doomed = [key for page in scan(client) for key in page if LIVING.encode() not in key]
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, len(doomed), step):
            pipe.unlink(*doomed[start : start + step])
            if len(pipe) * step >= PIPELINED:
                pipe.execute()
        pipe.execute()


def main(name: str, ports: list[int]) -> None:
    """Do what the name says to one server after the other, and print how long it took."""
    started_s = time.perf_counter()
    for port in ports:
        with Redis(port=port) as client:
            if name == "floor":
                floor(client, 1_000 if len(ports) == 1 else 1)  # in a cluster, slots differ
            elif name == "one-pass":  # looks for heartbeats, and reads none
                list(scan(client, "blocking:heartbeat:*"))
            elif name == "wait":
                time.sleep(1)
    print(json.dumps({"executionTimeMs": (time.perf_counter() - started_s) * 1000}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(os.environ["BENCH_PORTS"]))
