"""make bench: the ways side by side, what they cost, and whether the goals are reached."""

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.goals import goal_table
from benchmarks.place import Place
from benchmarks.plan import BEFORE, GROUPS, LARGE, MIDDLE, ROOT, ways
from benchmarks.results import Results
from benchmarks.run import Run, measure
from demo.interrupts import checkpoint, interruptible
from demo.servers import valkey_binary


def main() -> None:
    """Measure sweeps beside the least that they could cost, on servers of the benchmark's own."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=main.__doc__)
    option = parser.add_argument
    option("--largest", type=int, default=LARGE, help="coordinators to stop at")
    option("--only", action="append", choices=GROUPS, help="a group to measure; may be given several times")
    option("--rounds", type=int, help="rounds of each group")
    option("--checkout", type=Path, default=ROOT, help="the checkout to measure; without it, this one")
    option("--against", type=Path, help='another checkout; its engines are measured too, as "before"')
    option("--write", action="store_true", help="write docs/performance.md and its plot")
    option("--json", type=Path, help="write all figures of all rounds to a file")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("the page that --write writes needs all groups")
    about, started_s = machine(), time.monotonic()
    with interruptible():
        runs = [run for name in options.only or GROUPS for run in _runs(name, options)]
    results = Results(runs)
    print(*results.tables(), goal_table(results), about, sep="\n\n")
    figures = json.dumps({"machine": about, "minutes": (time.monotonic() - started_s) / 60, "runs": runs})
    if options.json:
        options.json.write_text(figures, encoding="utf-8")
    if options.write:  # in a process of its own, for only that needs matplotlib
        document = [sys.executable, "-m", "benchmarks.document"]
        subprocess.run(document, cwd=ROOT, input=figures, text=True, check=True)


def machine() -> str:
    """What a reader needs to judge figures: this machine, its versions, and the date."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    cores = f"{os.cpu_count()} cores ({model[1] if model else sys.platform})"
    server = subprocess.run([valkey_binary(), "--version"], capture_output=True, text=True, check=True)
    versions = [f"Valkey {server.stdout.split()[2][2:]}", f"Python {sys.version.split()[0]}"]
    versions += [f"{name} {version(name)}" for name in ("redis", "hiredis")]
    when, load = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", f"load {os.getloadavg()[0]:.1f} before"
    return ", ".join([when, cores, load, *versions])


def _runs(name: str, options: argparse.Namespace) -> Iterator[Run]:
    """Measure a group: in each round each way on each data set, which has a server of its own."""
    group = GROUPS[name]
    checkouts = {"": options.checkout} | ({BEFORE: options.against} if options.against else {})
    for size in sorted({min(size, options.largest) for size in group.sizes}):
        last = options.rounds or (5 if size <= MIDDLE else 3 if size <= LARGE else 1)
        with contextlib.ExitStack() as stack:
            places = [Place(stack, each, cluster=name == "cluster") for each in group.datasets(size)]
            trials = list(itertools.product(ways(group.ways, checkouts), places))
            for number, (way, at) in itertools.product(range(1, last + 1), trials):
                checkpoint()
                if number > 1 and size >= LARGE and way.name.startswith(BEFORE):
                    continue  # one round is enough of what takes long
                print(f"{name}: {at.dataset}, {way.name}, {number} of {last}", file=sys.stderr)
                case = {"group": name, "dataset": at.dataset, "way": way.name}
                yield case | measure(way, at, beats=name == "clients")


if __name__ == "__main__":
    main()
