"""The results as plots."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import ways
from benchmarks.dataset import Dataset
from benchmarks.goals import FLOOR
from benchmarks.measure import Measure
from benchmarks.plan import MIDDLE
from benchmarks.results import Case, Results, server_s, wall_s

#: Way -> colour and line, the same in all plots.
STYLES = {
    FLOOR: ("black", "--"),
    ways.LUA.name: ("tab:blue", "-"),
    ways.PYTHON.name: ("tab:orange", "-"),
    ways.LUA_REPORT.name: ("tab:cyan", "-"),
    ways.BY_HAND.name: ("tab:purple", "-"),
    ways.ORIGINAL_WAY.name: ("tab:red", "-"),
    ways.REDIS_CLI_WAY.name: ("tab:green", "-"),
    ways.QUIET.name: ("tab:gray", "-"),
    ways.BUSY.name: ("tab:gray", ":"),
}


def write_plots(results: Results, folder: Path) -> dict[str, str]:
    """Draw all plots into a folder, and return what each shows by the name of its file."""
    mpl.use("Agg")
    figures = {
        "performance-growth.png": ("Growth with the number of coordinators, 99 % stale", _growth(results)),
        "performance-shares.png": ("Wall time by the share of stale coordinators", _shares(results)),
        "performance-latency.png": ("A client that beats every millisecond meanwhile", _latency(results)),
    }
    for name, (_, figure) in figures.items():
        figure.savefig(folder / name, dpi=110)
    return {name: title for name, (title, _) in figures.items()}


def _growth(results: Results) -> Figure:
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, results, "wall time", wall_s)
    _curves(right, results, "server's main thread", server_s)
    left.legend(fontsize="small")
    return figure


def _curves(axes: Axes, results: Results, name: str, figure: Callable[[Measure], float]) -> None:
    for way, (colour, line) in STYLES.items():
        sizes = results.sizes(way)
        spreads = [spread for size in sizes if (spread := results.spread(Case(way, Dataset(size)), figure))]
        if spreads:
            middle = [spread.median for spread in spreads]
            errors = (
                [spread.median - spread.low for spread in spreads],
                [spread.high - spread.median for spread in spreads],
            )
            axes.errorbar(sizes, middle, errors, label=way, color=colour, ls=line, marker=".", capsize=2)
    axes.set(xscale="log", yscale="log", xlabel="coordinators (six keys each)", ylabel="seconds", title=name)
    axes.grid(which="major", alpha=0.4)


def _shares(results: Results) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    size = max((size for size in results.sizes(FLOOR) if size <= MIDDLE), default=0)
    shares = sorted({c.dataset.stale_share for c in results.rounds if c.dataset.coordinators == size})
    shown = (FLOOR, ways.LUA.name, ways.PYTHON.name)
    for number, way in enumerate(shown):
        cases = [Case(way, Dataset(size, share)) for share in shares]
        places = [place + (number - 1) * 0.27 for place in range(len(shares))]
        heights = [(results.median(case, wall_s) or 0) * 1000 for case in cases]
        axes.bar_label(axes.bar(places, heights, 0.25, label=way, color=STYLES[way][0]), fmt="%.0f")
    axes.set_xticks(range(len(shares)), [f"{share} % stale" for share in shares])
    axes.set(ylabel="ms", title=f"{size:,} coordinators")
    axes.legend()
    return figure


def _latency(results: Results) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    quiet = [case for case in results.rounds if case.beats and case.way == ways.QUIET.name]
    quiet.sort(key=lambda case: case.dataset.coordinators)
    for axes, one in zip(figure.subplots(1, len(quiet), sharey=True, squeeze=False)[0], quiet, strict=True):
        for way, (colour, line) in STYLES.items():
            case = replace(one, way=way)
            if case in results.rounds:
                percentiles = [50, 90, 95, 99, 99.9, 100]
                values = [(results.latency(case, percentile) or 0) * 1000 for percentile in percentiles]
                axes.plot(range(len(percentiles)), values, label=way, color=colour, ls=line, marker=".")
        axes.set_xticks(range(len(percentiles)), ["p50", "p90", "p95", "p99", "p99.9", "longest"])
        axes.set(yscale="log", ylabel="ms", title=f"{one.dataset.coordinators:,} coordinators")
        axes.grid(alpha=0.4)
        axes.legend(fontsize="small")
    return figure
