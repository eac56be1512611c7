"""The progress bar, on a terminal."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cleanup_tasks.sweep.options import Progress as Callback
from cleanup_tasks.sweep.options import no_progress


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callback]:
    """What a sweep calls at every step; nothing of the bar stays on the screen."""
    if not console.is_terminal:
        yield no_progress
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.completed} {task.fields[unit]}"),
    )
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        shown = bar.add_task("connecting", total=None, unit="")

        def update(what: str, done: int, total: int) -> None:
            unit = f"of {total} coordinators" if total else "keys"
            bar.update(shown, description=what, completed=done, total=total or None, unit=unit)

        yield update
