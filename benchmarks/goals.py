"""What was aimed at, and whether it was reached; all ratios are within one session."""

from math import isnan

from benchmarks.plan import FULL, GROUPS, LARGE, LUA, MIDDLE, PYTHON, REPORT, SLOW, SMALL
from benchmarks.results import LONGEST, SERVER, TIMES, WALL, Case, Results, table

GROWTH = "time / floor, in times of that at 10,000"
_BOTH = (MIDDLE, LARGE)
#: What, figure, group, numbers of coordinators, and the highest figure for each way.
GOALS: tuple[tuple[str, str, str, tuple[int, ...], dict[str, float]], ...] = (
    ("time / floor", WALL, "fleet", _BOTH, {LUA: 2, PYTHON: 2.5}),
    ("server's time / floor", SERVER, "fleet", _BOTH, {LUA: 2, PYTHON: 2}),
    ("time / floor", WALL, "acceptance", _BOTH, {LUA: 1.75, PYTHON: 2.25}),
    ("time for each key / fleet data", WALL, "shapes", (MIDDLE,), {LUA: 2, PYTHON: 2}),
    ("nothing stale, time / one SCAN pass", WALL, "nothing-stale", _BOTH, {LUA: 2, PYTHON: 2, REPORT: 4}),
    ("cluster of three, time / its floor", WALL, "cluster", (MIDDLE,), {LUA: 2.5, PYTHON: 4}),
    ("longest command", LONGEST, "fleet", (SMALL, *_BOTH), {LUA: 5, PYTHON: 5}),
    ("longest command", LONGEST, "acceptance", (*_BOTH, FULL), {LUA: 5, PYTHON: 5}),
    ("p99 of another client / no sweep", f"p99 ms{TIMES}", "clients", _BOTH, {LUA: 3, PYTHON: 3}),
    (GROWTH, WALL, "acceptance", (FULL,), {LUA: 1.5, PYTHON: 1.5}),
    ("worker's peak memory", "peak MB", "acceptance", (FULL,), {LUA: 1000, PYTHON: 1000}),
    ("time / without", WALL, "link", (LARGE,), {LUA + SLOW: 2, PYTHON + SLOW: 2}),
)


def goal_table(results: Results) -> str:
    """Each goal with reached or missed."""
    rows = []
    for what, figure, group, sizes, limits in GOALS:
        unit = "×" if figure.endswith(TIMES) else figure.split()[-1]
        datasets = [dataset for size in sizes for dataset in GROUPS[group].datasets(size)]
        cases = [Case(group, dataset, way) for way in limits for dataset in datasets]
        for case in (case for case in cases if case != case.base()):
            value, limit = results.value(case, figure), limits[case.way]
            if what == GROWTH:
                smaller = case._replace(dataset=case.dataset._replace(coordinators=MIDDLE))
                value /= results.value(smaller, figure)
            verdict = "reached" if value <= limit else "missed" if value > limit else "not measured"
            shown = "–" if isnan(value) else f"{value:,.2f} {unit}"
            rows.append((f"{case.way}: {what}", str(case.dataset), f"{limit:g} {unit}", shown, verdict))
    return table(("goal", "data", "at most", "measured", "verdict"), rows)
