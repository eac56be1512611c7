"""The progress bar, on a terminal."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cleanup_tasks.sweep.options import Progress as Callback
from cleanup_tasks.sweep.options import no_progress

#: What a sweep does -> what it is called, and from where to where it takes the bar, in percent.
STEPS = {
    "finding": ("Looking for coordinators", 0, 30),
    "collecting": ("Looking for their keys", 30, 60),
    "reaping": ("Deleting", 60, 100),
}
#: The last step of a dry run.
COUNTING = "Counting"


@contextlib.contextmanager
def progress_bar(console: Console | None, *, dry_run: bool) -> Iterator[Callback]:
    """One bar for a whole sweep; gives what it calls at every step. In the end the bar is gone."""
    if console is None or not console.is_terminal:
        yield no_progress
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        console.show_cursor()  # also for who ends the command in the middle
        shown = bar.add_task("Connecting", total=100)
        percent = 0.0

        def update(what: str, done: int, total: int) -> None:
            nonlocal percent
            percent = percent_after(percent, what, done, total)
            name = COUNTING if dry_run and what == "reaping" else STEPS[what][0]
            bar.update(shown, description=name, completed=percent)

        yield update


def percent_after(percent: float, what: str, done: int, total: int) -> float:
    """How far a sweep is; it never goes back, though a large fleet is dealt with in several rounds."""
    _, start, end = STEPS[what]
    return max(percent, start + (end - start) * done / total if total else start)
