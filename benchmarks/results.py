"""What was measured, medians of it, and Markdown tables for the terminal and the documentation alike."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import isnan, nan
from typing import NamedTuple

from benchmarks.dataset import Dataset
from benchmarks.plan import GROUPS, SLOW
from benchmarks.run import Run

#: After the name of a figure: how many times the base's it is.
TIMES = " × base"
WALL, SERVER, LONGEST = f"wall ms{TIMES}", f"server ms{TIMES}", "longest ms"
COLUMNS = ("wall ms", WALL, "server ms", SERVER, LONGEST, "worker ms", "peak MB")
#: Columns where another client beats.
CLIENT_COLUMNS = ("p50 ms", "p99 ms", f"p99 ms{TIMES}", "wall ms")


class Case(NamedTuple):
    """A way on a data set, in one group of the plan."""

    group: str
    dataset: Dataset
    way: str

    def base(self) -> "Case":
        """The case that it is compared with."""
        group = GROUPS[self.group]
        if group.base:
            return self._replace(way=group.base)
        first = self.dataset._replace(shape=group.shapes[0])
        return self._replace(dataset=first, way=self.way.removesuffix(SLOW))


class Results:
    """The rounds of all cases, in the order in which they were measured."""

    def __init__(self, runs: list[Run]) -> None:
        """From runs that name their group, data set and way."""
        self.rounds: dict[Case, list[Run]] = defaultdict(list)
        for run in runs:
            self.rounds[Case(run["group"], Dataset(*run["dataset"]), run["way"])].append(run)

    def value(self, case: Case, figure: str) -> float:
        """A figure of all rounds: the median, but the longest command; nan where it was not measured.

        "p50 ms" and "p99 ms" are percentiles of all beats of all rounds.
        """
        if figure.endswith(TIMES):
            figure = figure.removesuffix(TIMES)
            return self.value(case, figure) / (self.value(case.base(), figure) or nan)
        runs = self.rounds.get(case, [])
        if figure in ("p50 ms", "p99 ms"):
            beats = [beat for run in runs for beat in run["beats ms"]]
            return statistics.quantiles(beats, n=100)[int(figure[1:3]) - 1] if len(beats) > 1 else nan
        values: list[float] = [run[figure] for run in runs] or [nan]
        return max(values) if figure == LONGEST else statistics.median(values)

    def tables(self) -> Iterator[str]:
        """A table of all figures, with its title, of every group."""
        for group in dict.fromkeys(case.group for case in self.rounds):
            columns = CLIENT_COLUMNS if group == "clients" else COLUMNS
            rows = []
            for case in (case for case in self.rounds if case.group == group):
                walls = [number(wall) for wall in sorted(run["wall ms"] for run in self.rounds[case])]
                figures = [number(self.value(case, column)) for column in columns]
                rows.append((case.way, str(case.dataset), *figures, f"{walls[0]} to {walls[-1]}"))
            yield f"**{group}**\n\n{table(('way', 'data', *columns, 'wall ms of all rounds'), rows)}"


def number(value: float) -> str:
    """Three digits or more; a dash for what was not measured."""
    return "–" if isnan(value) else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown that can be read as it is; the first column is text, the others are figures."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = [[f"{line[0]:{widths[0]}}", *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in aligned)
