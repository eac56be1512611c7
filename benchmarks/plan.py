"""What is measured, in which order: groups of ways that take turns on one data set."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks import ways
from benchmarks.dataset import Dataset
from benchmarks.ways import Way

SMALL, MIDDLE, LARGE, FULL = 1_000, 10_000, 100_000, 1_000_000
#: Rounds per size, up to that many coordinators.
ROUNDS = {100: 5, SMALL: 5, MIDDLE: 5, LARGE: 3, FULL: 1}


@dataclass(frozen=True, slots=True)
class Group:
    """Ways that are measured side by side."""

    dataset: Dataset
    ways: tuple[Way, ...]
    rounds: int
    cluster: bool = False
    #: Whether another client beats meanwhile.
    beats: bool = False


def floor_of(cluster: bool, count: int, pattern: bytes | None) -> Way:
    """The floor, with the best way to scan that was found."""
    work = ways.cluster_floor if cluster else ways.floor
    return Way("floor", partial(work, count, pattern))


def pass_of(count: int) -> Way:
    """One pass over the keyspace, with the best COUNT that was found."""
    return Way("one SCAN pass", partial(ways.one_pass, count), deletes=False)


def groups(sizes: list[int]) -> Iterator[Group]:
    """The groups for these numbers of coordinators; the floor is put before the ways of each."""
    engines = (ways.LUA, ways.PYTHON)
    others = (ways.LUA_REPORT, ways.BY_HAND, ways.ORIGINAL_WAY, ways.REDIS_CLI_WAY)
    for size in sizes:
        yield Group(Dataset(size), engines if size >= LARGE else (*engines, *others), rounds_of(size))
    if LARGE in sizes:
        # once is enough for those that take long
        yield Group(Dataset(LARGE), (*others, ways.LUA_SLOW_LINK, ways.PYTHON_SLOW_LINK), 1)
    for size in (size for size in sizes if size in (MIDDLE, LARGE)):
        yield Group(Dataset(size, 0), engines, rounds_of(size))
    for size in [size for size in sizes if size <= MIDDLE][-1:]:
        yield Group(Dataset(size, 1), engines, rounds_of(size))
        yield Group(Dataset(size, 50), engines, rounds_of(size))
        yield Group(Dataset(size, 99, unrelated=10), (*engines, ways.REDIS_CLI_WAY), 3)
        yield Group(Dataset(size), engines, 3, cluster=True)
    for size in (size for size in sizes if size >= MIDDLE or size == sizes[-1]):
        felt = (ways.QUIET, ways.BUSY, *engines, *(() if size > MIDDLE else (*others[-1:], ways.BY_HAND)))
        # several rounds give a short sweep enough beats for a p99
        yield Group(Dataset(size), felt, 3 if size <= LARGE else 1, beats=True)


def rounds_of(size: int) -> int:
    """How often a size is measured."""
    return next((rounds for limit, rounds in ROUNDS.items() if size <= limit), 1)
