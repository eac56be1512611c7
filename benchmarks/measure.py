"""One run of one way, measured: on the clock, on the server, in the worker, on the wire."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.connection import AbstractConnection

from benchmarks.beats import Beats, beating
from benchmarks.cost import ServerCost
from benchmarks.dataset import Dataset
from benchmarks.place import Place
from benchmarks.process import in_process
from benchmarks.ways import Way, Work


@dataclass(frozen=True, slots=True)
class WorkerCost:
    """What a way cost the process that it ran in."""

    started_s: float
    ended_s: float
    #: CPU time, that of programs it started too.
    cpu_s: float
    #: Most memory that was resident at once, the interpreter's own 60 MB or so too.
    peak_bytes: int
    #: Writes that an answer was waited for: a command or a pipeline each.
    round_trips: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One run."""

    worker: WorkerCost
    server: ServerCost
    #: Latencies in seconds of a client that beat meanwhile.
    beats: tuple[float, ...] = ()

    @property
    def wall_s(self) -> float:
        """From before the connection to after the last answer."""
        return self.worker.ended_s - self.worker.started_s


def _work(work: Work, url: str) -> WorkerCost:
    count = [0]
    send: Callable[..., None] = AbstractConnection.send_packed_command

    def counting(self: AbstractConnection, *arguments: object, **options: object) -> None:
        count[0] += 1
        send(self, *arguments, **options)

    AbstractConnection.send_packed_command = counting  # type: ignore[method-assign]
    cpu_before = _cpu_s()
    started_s = time.perf_counter()
    work(url)
    ended_s = time.perf_counter()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return WorkerCost(started_s, ended_s, _cpu_s() - cpu_before, peak_bytes, count[0])


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(way: Way, place: Place, dataset: Dataset, url: str) -> Measure:
    """Run a way on a fresh data set.

    Raises RuntimeError if it left other keys than those it had to leave: then its time is worth nothing.
    """
    place.restore()
    before = place.cost()
    with place.on_its_own_core():
        worker = in_process(_work, way.work, url)
    server = place.cost()
    server.main_thread_s -= before.main_thread_s
    _check(way, place, dataset)
    return Measure(worker, server)


def measure_beats(way: Way, place: Place, dataset: Dataset, url: str) -> Measure:
    """The same while another client beats; what it costs the server then is not the way's alone."""
    place.restore()
    with place.on_its_own_core(), beating(place.servers[0].port) as beats:
        worker = in_process(_work, way.work, url)
        latencies = beats.between(worker.started_s, worker.ended_s)
    server = place.cost()
    _check(way, place, dataset, Beats.KEYS)
    return Measure(worker, server, tuple(latencies))


def _check(way: Way, place: Place, dataset: Dataset, more: int = 0) -> None:
    expected = dataset.keys + more - (dataset.doomed_keys if way.deletes else 0)
    left = place.key_count()
    if left != expected:
        raise RuntimeError(f"{way.name} left {left} keys of {dataset}, not {expected}")
