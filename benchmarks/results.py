"""What was measured, and medians of it."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.dataset import Dataset
from benchmarks.machine import Machine
from benchmarks.measure import Measure


@dataclass(frozen=True, slots=True)
class Case:
    """A way on a data set."""

    way: str
    dataset: Dataset
    cluster: bool = False
    #: Whether another client beat meanwhile.
    beats: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, the lowest and the highest."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class Results:
    """All rounds of all cases, in the order in which they were measured."""

    machine: Machine
    rounds: dict[Case, list[Measure]] = field(default_factory=lambda: defaultdict(list))
    #: Seconds that a PING took on the slow link, and without it.
    slow_ping_s: float = 0.0
    ping_s: float = 0.0

    def spread(self, case: Case, figure: Callable[[Measure], float]) -> Spread | None:
        """A figure of a case, or None where it wasn't measured."""
        values = sorted(map(figure, self.rounds.get(case, ())))
        return Spread(statistics.median(values), values[0], values[-1]) if values else None

    def median(self, case: Case, figure: Callable[[Measure], float]) -> float | None:
        """The median alone."""
        spread = self.spread(case, figure)
        return spread.median if spread else None

    def ratio(self, case: Case, other: Case, figure: Callable[[Measure], float]) -> float | None:
        """How many times the other's median a case's median is; None where one of them is missing."""
        value, base = self.median(case, figure), self.median(other, figure)
        return value / base if value is not None and base else None

    def latency(self, case: Case, percentile: float) -> float | None:
        """A percentile in seconds of the beats of all rounds; 100: the longest."""
        beats = sorted(beat for measure in self.rounds.get(case, ()) for beat in measure.beats)
        return beats[min(len(beats) - 1, int(len(beats) * percentile / 100))] if beats else None

    def sizes(self, way: str) -> list[int]:
        """Numbers of coordinators, 99 % stale, that a way was measured with."""
        cases = [case for case in self.rounds if case == Case(way, Dataset(case.dataset.coordinators))]
        return sorted(case.dataset.coordinators for case in cases)


def wall_s(measure: Measure) -> float:
    """Seconds on the clock."""
    return measure.wall_s


def server_s(measure: Measure) -> float:
    """Seconds of the server's main thread."""
    return measure.server.main_thread_s


def longest_s(measure: Measure) -> float:
    """Seconds of the longest command."""
    return measure.server.longest_s


def worker_s(measure: Measure) -> float:
    """CPU seconds of the worker."""
    return measure.worker.cpu_s


def peak_bytes(measure: Measure) -> float:
    """The worker's peak memory."""
    return measure.worker.peak_bytes
