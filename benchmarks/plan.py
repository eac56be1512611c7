"""What is measured: groups of ways to remove what is stale, which take turns on data sets."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.dataset import Dataset

ROOT = Path(__file__).parents[1]
SMALL, MIDDLE, LARGE, FULL = 1_000, 10_000, 100_000, 1_000_000

FLOOR, ONE_PASS, IDLE = "floor", "one SCAN pass", "no sweep"
LUA, PYTHON, REPORT = "Lua engine", "Python engine", "Lua engine, orphans reported"
#: Before and after the name of an engine.
BEFORE, SLOW = "before: ", " over a link of 1 ms"
#: Way -> module of Python and its arguments; a sweep is what users run.
COMMANDS = {
    FLOOR: "benchmarks.baseline floor",
    ONE_PASS: "benchmarks.baseline one-pass",
    IDLE: "benchmarks.baseline wait",
    LUA: "cleanup_tasks --json --orphans=off",
    PYTHON: "cleanup_tasks --json --orphans=off --fallback",
    REPORT: "cleanup_tasks --json --orphans=report",
}


class Group(NamedTuple):
    """Ways and shapes of data that take turns, once for each number of coordinators.

    `base` is what the others are compared with; without it, a way is compared with itself on the first
    shape, and without the slow link.
    """

    ways: tuple[str, ...]
    shapes: tuple[str, ...]
    sizes: tuple[int, ...]
    base: str | None = FLOOR
    stale_percent: int = 99

    def datasets(self, size: int) -> list[Dataset]:
        """A data set of each shape."""
        return [Dataset(shape, size, self.stale_percent) for shape in self.shapes]


_ENGINES, _SLOW_ENGINES, _BOTH = (LUA, PYTHON), (LUA + SLOW, PYTHON + SLOW), (MIDDLE, LARGE)
GROUPS = {
    "fleet": Group((FLOOR, *_ENGINES, REPORT), ("fleet",), (SMALL, *_BOTH)),
    "acceptance": Group((FLOOR, *_ENGINES), ("acceptance",), (SMALL, *_BOTH, FULL)),
    "shapes": Group((FLOOR, *_ENGINES), ("fleet", "chain", "hub", "colons"), (MIDDLE,), None),
    "nothing-stale": Group((ONE_PASS, *_ENGINES, REPORT), ("fleet",), _BOTH, ONE_PASS, 0),
    "cluster": Group((FLOOR, *_ENGINES), ("fleet", "acceptance"), (MIDDLE,)),
    "link": Group((*_ENGINES, *_SLOW_ENGINES), ("fleet",), (LARGE,), None),
    "clients": Group((IDLE, FLOOR, *_ENGINES), ("fleet",), _BOTH, IDLE),
}


class Way(NamedTuple):
    """A command of Python, run in a checkout."""

    name: str
    words: list[str]
    checkout: Path


def ways(names: Iterable[str], checkouts: dict[str, Path]) -> Iterator[Way]:
    """The ways of a group; sweeps in each of the checkouts, which are by the prefix of their ways' names."""
    for name in names:
        words = COMMANDS[name.removesuffix(SLOW)].split()
        for prefix, checkout in (checkouts if words[0] == "cleanup_tasks" else {"": ROOT}).items():
            yield Way(prefix + name, words, checkout)
