"""docs/performance.md and its plot: ``python -m benchmarks.document < FILE``, a file that --json wrote.

The text is in performance.md beside this file.
"""

import json
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.dataset import Dataset
from benchmarks.goals import goal_table
from benchmarks.plan import BEFORE, COMMANDS, FLOOR, IDLE, LUA, MIDDLE, PYTHON, REPORT, ROOT
from benchmarks.results import LONGEST, Case, Results, number

#: Title of a panel of the plot, what its vertical axis shows, group and figure.
PANELS = (
    ("Time of a sweep, fleet data", "milliseconds", "fleet", "wall ms"),
    ("Time of a sweep, acceptance data", "milliseconds", "acceptance", "wall ms"),
    ("Memory of the worker, acceptance data", "megabytes", "acceptance", "peak MB"),
    ("99 of 100 answers to another client, fleet data", "within milliseconds", "clients", "p99 ms"),
)


def draw(results: Results, path: Path) -> None:
    """Draw the plot into a file; a way has the same colour in all panels, dotted for "before"."""
    plot = Figure((12, 10), layout="constrained")
    for position, (title, unit, group, figure) in enumerate(PANELS, 1):
        axes = plot.add_subplot(2, 2, position, title=title, xscale="log", yscale="log")
        axes.set(xlabel="number of coordinators", ylabel=unit)
        for axis, labelled in ((axes.xaxis, [1]), (axes.yaxis, [1, 2, 5])):
            axis.set_major_locator(LogLocator(subs=labelled))
            axis.set_major_formatter("{x:,.15g}")
            axis.set_minor_formatter("")
        cases = [case for case in results.rounds if case.group == group]
        for way in dict.fromkeys(case.way for case in cases):
            points = [(c.dataset.coordinators, results.value(c, figure)) for c in cases if c.way == way]
            colour = f"C{list(COMMANDS).index(way.removeprefix(BEFORE))}"
            line = ":" if way.startswith(BEFORE) else "-"
            axes.plot(*zip(*points, strict=True), label=way, color=colour, ls=line, marker=".")
        axes.grid(alpha=0.4)
        axes.legend(fontsize="small")
    plot.savefig(path, dpi=100)


def longest(results: Results, sizes: Container[int]) -> str:
    """The longest command of all sweeps of so many coordinators, in ms."""
    sweeps = [
        case for case in results.rounds if case.way.startswith((LUA, PYTHON)) and case.group != "clients"
    ]
    return number(max(results.value(c, LONGEST) for c in sweeps if c.dataset.coordinators in sizes))


def page(figures: dict[str, Any], results: Results) -> str:
    """The text, with figures of the largest data sets."""
    largest = {case.group: case.dataset for case in results.rounds}  # which are measured last
    fleet, many = largest["fleet"], largest["acceptance"]
    few = min(many, many._replace(coordinators=MIDDLE))

    def value(group: str, dataset: Dataset, way: str, figure: str, divisor: float = 1) -> str:
        return number(results.value(Case(group, dataset, way), figure) / divisor)

    template = Path(__file__).with_name("performance.md").read_text(encoding="utf-8")
    return template.format(
        fleet=fleet,
        few=few,
        many=many,
        seconds={way: value("fleet", fleet, way, "wall ms", 1000) for way in (FLOOR, LUA, PYTHON, REPORT)},
        quiet_s={
            way: value("nothing-stale", largest["nothing-stale"], way, "wall ms", 1000)
            for way in (LUA, REPORT)
        },
        p99={way: value("clients", fleet, way, "p99 ms") for way in (IDLE, LUA, PYTHON)},
        longest_ms=[longest(results, range(fleet.coordinators + 1)), longest(results, [many.coordinators])],
        microseconds=[value("acceptance", d, LUA, "wall ms", d.doomed / 1000) for d in (few, many)],
        fleet_mb=value("fleet", fleet, REPORT, "peak MB"),
        peak_mb=[value("acceptance", d, LUA, "peak MB") for d in (few, many)],
        start_s=value("fleet", fleet, LUA, "start ms", 1000),
        tables="\n\n".join(results.tables()),
        goals=goal_table(results),
        **figures,
    )


if __name__ == "__main__":
    measured = json.load(sys.stdin)
    found = Results(measured["runs"])
    draw(found, ROOT / "docs" / "performance-growth.png")
    (ROOT / "docs" / "performance.md").write_text(page(measured, found), encoding="utf-8")
