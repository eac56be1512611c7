"""docs/performance.md: what was measured is written between two marks, and the rest is left as it is."""

from pathlib import Path

from benchmarks.plots import write_plots
from benchmarks.results import Results
from benchmarks.tables import goal_table, tables

BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"


def write_document(results: Results, folder: Path, seconds: float) -> None:
    """Put tables and plots of a session, which took so many seconds, into the folder.

    Raises ValueError where performance.md has not both marks.
    """
    page = folder / "performance.md"
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{page} must have the lines {BEGIN} and {END}, each once")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(
        f"{before}{BEGIN}\n\n{_measured(results, folder, seconds)}\n\n{END}{after}", encoding="utf-8"
    )


def _measured(results: Results, folder: Path, seconds: float) -> str:
    plots = [f"![{title}]({name})" for name, title in write_plots(results, folder).items()]
    goals, others = goal_table(results).for_markdown(), [table.for_markdown() for table in tables(results)]
    slow_ms, ping_ms = results.slow_ping_s * 1000, results.ping_s * 1000
    link = f"A PING took {ping_ms:.2f} ms, and {slow_ms:.2f} ms over the slow link."
    machine = f"Measured {results.machine}. The whole session took {seconds:.0f} s. {link}"
    return "\n\n".join([machine, "## Goals", goals, "## Plots", *plots, "## Figures", *others])
