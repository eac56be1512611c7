"""The results as tables, for the terminal and for the documentation alike."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from rich import table as rich_table

from benchmarks import ways
from benchmarks.dataset import Dataset
from benchmarks.goals import FLOOR, goals
from benchmarks.plan import MIDDLE
from benchmarks.results import Case, Results, longest_s, peak_bytes, server_s, wall_s, worker_s

FOREIGN = {ways.REDIS_CLI_WAY.name}
#: Commands that set up a connection or measure, and are no way's own.
NOISE = {"info", "config|resetstat", "slowlog|reset", "slowlog|get", "debug", "client|setinfo"}


@dataclass(slots=True)
class Table:
    """Text in rows and columns; the first column is a name."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def for_terminal(self) -> rich_table.Table:
        """As rich prints it."""
        table = rich_table.Table(title=self.title)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def for_markdown(self) -> str:
        """As Markdown."""
        rule = ["---"] + ["---:"] * (len(self.columns) - 1)
        lines = [" | ".join(cells) for cells in (self.columns, rule, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(f"| {line} |" for line in lines)


def goal_table(results: Results) -> Table:
    """Each goal with reached or missed."""
    table = Table("Goals", ("goal", "at most", "measured", ""))
    for goal in goals(results):
        table.rows.append((goal.text, f"{goal.limit:g} {goal.unit}", goal.figure, goal.verdict))
    return table


def tables(results: Results) -> Iterator[Table]:
    """All others."""
    plain = [case for case in results.rounds if not case.beats]
    for dataset, cluster in dict.fromkeys((case.dataset, case.cluster) for case in plain):
        where = ", a cluster of three primaries" if cluster else ""
        table = Table(
            f"{dataset}{where}",
            (
                *("way", "wall ms (lowest to highest)", "× floor", "server ms", "× floor"),
                *(
                    "longest command ms",
                    "worker CPU ms",
                    "peak MB",
                    "round trips",
                    "MB to server",
                    "MB from it",
                ),
            ),
        )
        cases = [case for case in plain if (case.dataset, case.cluster) == (dataset, cluster)]
        table.rows = [_row(case, results) for case in cases]
        yield table
    yield _latency_table(results)
    yield _command_table(results)


def _row(case: Case, results: Results) -> tuple[str, ...]:
    wall, server = results.spread(case, wall_s), results.spread(case, server_s)
    assert wall
    assert server
    last = results.rounds[case][-1]
    longest = max(results.rounds[case], key=longest_s).server
    floor = replace(case, way=FLOOR)
    foreign = case.way in FOREIGN
    return (
        case.way,
        f"{_ms(wall.median)} ({_ms(wall.low)} to {_ms(wall.high)})",
        _times(results.ratio(case, floor, wall_s)),
        _ms(server.median),
        _times(results.ratio(case, floor, server_s)),
        f"{_ms(longest.longest_s)} {longest.longest}" if longest.longest else "< 0.1",
        _ms(results.median(case, worker_s) or 0),
        "–" if foreign else f"{(results.median(case, peak_bytes) or 0) / 1e6:.0f}",
        "–" if foreign else f"{last.worker.round_trips:,}",
        f"{last.server.bytes_in / 1e6:.2f}",
        f"{last.server.bytes_out / 1e6:.2f}",
    )


def _latency_table(results: Results) -> Table:
    columns = (
        *("while", "coordinators", "beats"),
        *("p50 ms", "p99 ms", "longest ms", "p99 × no sweep", "longest command ms"),
    )
    table = Table("A client that beats every millisecond meanwhile", columns)
    for case in (case for case in results.rounds if case.beats):
        p50, p99, longest = (results.latency(case, percentile) or 0 for percentile in (50, 99, 100))
        quiet = results.latency(replace(case, way=ways.QUIET.name), 99)
        beats = sum(len(measure.beats) for measure in results.rounds[case])
        figures = (f"{value * 1000:.2f}" for value in (p50, p99, longest))
        size = f"{case.dataset.coordinators:,}"
        times, command_s = _times(p99 / quiet if quiet else None), max(map(longest_s, results.rounds[case]))
        table.rows.append((case.way, size, f"{beats:,}", *figures, times, f"{command_s * 1000:.1f}"))
    return table


def _command_table(results: Results) -> Table:
    size = max((size for size in results.sizes(FLOOR) if size <= MIDDLE), default=0)
    title = f"What the server did, {Dataset(size)} (last round; a script's commands are in its time too)"
    table = Table(title, ("way", "command", "calls", "ms"))
    for way in (FLOOR, ways.LUA.name, ways.PYTHON.name):
        for measure in results.rounds.get(Case(way, Dataset(size)), [])[-1:]:
            for command, seconds in measure.server.seconds.most_common():
                if command not in NOISE and seconds >= 0.000_1:
                    calls = measure.server.calls[command]
                    table.rows.append((way, command, f"{calls:,}", f"{seconds * 1000:.1f}"))
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}" if seconds >= 0.01 else f"{seconds * 1000:.1f}"


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f}" if ratio is not None else "–"
