"""What was aimed at, and whether a session reached it; all ratios are within one session."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks import ways
from benchmarks.dataset import Dataset
from benchmarks.plan import FULL, LARGE, MIDDLE
from benchmarks.results import Case, Results, longest_s, peak_bytes, server_s, wall_s
from cleanup_tasks.finder import GENERATION

ENGINES = (ways.LUA.name, ways.PYTHON.name)
FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit, and the figure that it is about; None where the session did not measure it."""

    text: str
    limit: float
    value: float | None
    unit: str = "×"

    @property
    def verdict(self) -> str:
        """Whether it was reached."""
        if self.value is None:
            return "not measured"
        return "reached" if self.value <= self.limit else "missed"

    @property
    def figure(self) -> str:
        """The value with its unit."""
        if self.value is None:
            return "–"
        shown = f"{self.value:.2f}" if self.value < 100 else f"{self.value:,.0f}"
        return f"{shown} {self.unit}"


def goals(results: Results) -> Iterator[Goal]:
    """All goals."""
    yield from _against_the_floor(results)
    yield from _nothing_stale(results)
    yield from _others(results)
    yield from _growth(results)
    for way, slow in zip(ENGINES, (ways.LUA_SLOW_LINK, ways.PYTHON_SLOW_LINK), strict=True):
        ratio = results.ratio(Case(slow.name, Dataset(LARGE)), Case(way, Dataset(LARGE)), wall_s)
        yield Goal(f"{way}: {LARGE:,} over a link of 1 ms, against the same without", 2, ratio)


def _against_the_floor(results: Results) -> Iterator[Goal]:
    for way, limit in zip(ENGINES, (1.5, 2.0), strict=True):
        for size in (MIDDLE, LARGE):
            case, floor = Case(way, Dataset(size)), Case(FLOOR, Dataset(size))
            yield Goal(
                f"{way}: wall time at {size:,}, against the floor", limit, results.ratio(case, floor, wall_s)
            )
            ratio = results.ratio(case, floor, server_s)
            yield Goal(f"{way}: server's main thread at {size:,}, against the floor", 1.5, ratio)


def _nothing_stale(results: Results) -> Iterator[Goal]:
    for way in ENGINES:
        for size in (MIDDLE, LARGE):
            case = Case(way, Dataset(size, 0))
            ratio = results.ratio(case, replace(case, way="one SCAN pass"), wall_s)
            yield Goal(f"{way}: nothing stale at {size:,}, against one SCAN pass", 1.2, ratio)


def _others(results: Results) -> Iterator[Goal]:
    for way in ENGINES:
        for size in results.sizes(way):
            longest = max(map(longest_s, results.rounds[Case(way, Dataset(size))])) * 1000
            yield Goal(f"{way}: longest command at {size:,}", 5, longest, "ms")
        for case in list(results.rounds):
            if case.beats and case.way == way:
                p99, quiet = (results.latency(replace(case, way=name), 99) for name in (way, ways.QUIET.name))
                text = f"{way}: p99 of a beating client at {case.dataset.coordinators:,}, against no sweep"
                yield Goal(text, 3, p99 / quiet if p99 and quiet else None)


def _growth(results: Results) -> Iterator[Goal]:
    floor_times = results.ratio(Case(FLOOR, Dataset(FULL)), Case(FLOOR, Dataset(MIDDLE)), wall_s)
    for way in ENGINES:
        middle, full = Case(way, Dataset(MIDDLE)), Case(way, Dataset(FULL))
        times = results.ratio(full, middle, wall_s)
        text = f"{way}: time per key at {FULL:,}, against that at {MIDDLE:,}"
        yield Goal(text, 1.5, times and times * MIDDLE / FULL)
        text = f"{way}: the same in times of the floor, which grows too"
        yield Goal(text, 1.5, times and floor_times and times / floor_times)
        peak = results.median(full, peak_bytes)
        yield Goal(f"{way}: worker's peak memory at {FULL:,}", 1000, peak and peak / 1e6, "MB")
        more = results.ratio(full, Case(way, Dataset(LARGE)), peak_bytes)
        text = f"{way}: peak memory set by a limit of {GENERATION:,}: at {FULL:,}, against that at {LARGE:,}"
        yield Goal(text, GENERATION / LARGE, more)
