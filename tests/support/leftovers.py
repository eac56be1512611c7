"""What a program has left behind: processes that it or its children started, and files."""

import os
import uuid
from pathlib import Path

import psutil

from demo.servers import wait_until

#: A variable that every process inherits from the one that was started with it.
MARK = "CLEANED_UP_AFTER"


def mark() -> dict[str, str]:
    """An environment by which a process and all that come from it are known, also without their parent."""
    return {MARK: uuid.uuid4().hex}


def marked(environment: dict[str, str]) -> list[str]:
    """The processes that run with this mark now, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == environment[MARK]:
                found.append(f"{process.pid} {process.cmdline()}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def assert_no_process(environment: dict[str, str]) -> None:
    """No process with this mark runs on; one that was told to end gets the time for it."""
    try:
        wait_until(lambda: not marked(environment), "no process is left", seconds=5)
    except TimeoutError:
        raise AssertionError(f"left behind: {marked(environment)}") from None


def files_in(folder: Path, *, without: tuple[str, ...] = ()) -> set[Path]:
    """Every file in a folder, but for those in subfolders called so."""
    found = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(without)]
        found |= {Path(parent, name) for name in names}
    return found
