"""What `make demo` and `make up` have in common: how they start, and that they leave nothing behind."""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from demo.interrupts import interruptible
from demo.stack import without_settings

console = Console(highlight=False)


class NotAsExpected(Exception):
    """The program can't go on; the message says why."""


def forget_settings() -> list[str]:
    """Take every setting out of this process's environment, so that no server of the user's is reached.

    Celery itself reads some of them, whatever an app is told. Returns their names.
    """
    names = sorted(set(os.environ) - set(without_settings(os.environ)))
    for name in names:
        del os.environ[name]
    return names


def done(text: str) -> None:
    """Show a step that has succeeded."""
    console.print(f"  [green]✓[/] {text}")


def perform(play: Callable[[ExitStack, Path], None], *, status_of_ctrl_c: int) -> int:
    """Call `play` with an ExitStack for all that it starts, and a folder for files; both are gone after it.

    Returns 0, `status_of_ctrl_c` after Ctrl-C, or 1 after a failure, which is shown in plain words.
    """
    try:
        with interruptible(), ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cleanup-demo-"))
            try:
                play(stack, Path(folder))
            except KeyboardInterrupt:
                console.print("\nStopping everything …")
                raise
    except KeyboardInterrupt:
        console.print("Everything is stopped, and nothing is left behind.")
        return status_of_ctrl_c
    except (NotAsExpected, TimeoutError, RuntimeError) as failure:
        console.print(f"  [red]✗[/] {failure}", soft_wrap=True)
        return 1
    return 0
