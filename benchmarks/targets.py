"""Many targets, few processes: ``python -m benchmarks.targets`` has 1, 2 and 4 of them sweep eight targets.

A message for each target is sent at once, as beat's would be at worst, to a worker with so many children.
Workers, servers and broker share the cores.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.__main__ import machine
from benchmarks.dataset import Dataset
from benchmarks.place import Place
from benchmarks.plan import MIDDLE
from benchmarks.results import number, table
from demo.servers import running_server
from demo.stack import Stack

TARGETS = 8
CHILDREN = (1, 2, 4)
COLUMNS = ("processes", "wall ms", "× one", "ms of all sweeps", "server ms of all", "coordinators/s")


def round_of(places: list[Place], caller: Celery) -> dict[str, float]:
    """Sweep every target once; ends the benchmark where one is not clean afterwards."""
    for place in places:
        place.restore()
    before = [place.state() for place in places]
    started_s = time.perf_counter()
    names = [f"t{number}" for number in range(len(places))]
    sent = [caller.send_task("cleanup_tasks.cleanup", kwargs={"target": name}) for name in names]
    reports: list[dict[str, Any]] = [result.get(timeout=300, interval=0.005) for result in sent]
    wall_ms = (time.perf_counter() - started_s) * 1000
    after = [place.state() for place in places]
    for place, (_, keys), (_, left) in zip(places, before, after, strict=True):
        if keys - left != place.dataset.doomed:
            sys.exit(f"Error: {keys - left:,} keys are gone instead of {place.dataset.doomed:,}")
    return {
        "wall ms": wall_ms,
        "ms of all sweeps": sum(report["executionTimeMs"] for report in reports),
        "server ms of all": sum(end - begin for (begin, _), (end, _) in zip(before, after, strict=True)),
        "coordinators/s": sum(place.dataset.coordinators for place in places) / wall_ms * 1000,
    }


def main() -> None:
    """Measure, and print a table of medians."""
    parser = argparse.ArgumentParser("python -m benchmarks.targets", description=__doc__)
    parser.add_argument("--coordinators", type=int, default=MIDDLE, help="of each target")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    about, rows, one_ms = machine(), [], 0.0
    with contextlib.ExitStack() as stack:
        dataset = Dataset("fleet", options.coordinators, 99)
        places = [Place(stack, dataset, cluster=False, own_core=False) for _ in range(TARGETS)]
        broker = stack.enter_context(running_server())
        urls = {f"COORDINATION_REDIS_URL__T{number}": place.url for number, place in enumerate(places)}
        celery = {"CELERY_BROKER_URL": f"{broker.url}/1", "CELERY_RESULT_BACKEND": f"{broker.url}/2"}
        caller = stack.enter_context(Celery("caller", broker=f"{broker.url}/1", backend=f"{broker.url}/2"))
        caller.conf.task_default_queue = "cleanup"
        for children in CHILDREN:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            with Stack(urls | celery, folder) as processes:
                processes.start_worker("worker", "--concurrency", str(children))
                round_of(places, caller)  # the first is to warm up
                rounds = [round_of(places, caller) for _ in range(options.rounds)]
            row = {figure: statistics.median(run[figure] for run in rounds) for figure in rounds[0]}
            one_ms = one_ms or row["wall ms"]
            row |= {"processes": children, "× one": one_ms / row["wall ms"]}
            rows.append([str(children), *(number(row[column]) for column in COLUMNS[1:])])
    print(f"**{TARGETS} targets, {dataset} each**", table(COLUMNS, rows), about, sep="\n\n")


if __name__ == "__main__":
    main()
