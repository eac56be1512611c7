"""Work in a process of its own, forked when all is imported, so that its CPU time and memory are its own."""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")

_FORK = multiprocessing.get_context("fork")


class Running:
    """A process that works; see `running`."""

    def __init__(self, work: Callable[..., Any], *arguments: object, talks: bool = False) -> None:
        """Start it; one that `talks` gets its end of the pipe as last argument."""
        self.pipe, theirs = _FORK.Pipe()
        arguments = (*arguments, theirs) if talks else arguments
        self._process = _FORK.Process(target=_run, args=(theirs, work, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        """What it returned, when it has; raises RuntimeError with its traceback where it failed."""
        try:
            worked, result = self.pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the benchmark was killed") from None
        self._process.join()
        if not worked:
            raise RuntimeError(result)
        return result

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _run(pipe: Connection, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    # the parent hears Ctrl-C, and ends its children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        pipe.send((True, work(*arguments)))
    except Exception:
        pipe.send((False, traceback.format_exc()))


@contextlib.contextmanager
def running(work: Callable[..., Any], *arguments: object, talks: bool = False) -> Iterator[Running]:
    """A process for the length of a with block; see `Running`."""
    process = Running(work, *arguments, talks=talks)
    try:
        yield process
    finally:
        process.stop()


def in_process(work: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process of its own."""
    with running(work, *arguments) as process:
        result: Result = process.result()
        return result


@contextlib.contextmanager
def on_its_own_core(pid: int) -> Iterator[None]:
    """Have the main thread of a process alone on a core, as far as we and our children go.

    Nothing happens where there is one core only, or a system other than Linux.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(cores) < 2:
        yield
        return
    first = min(cores)
    os.sched_setaffinity(pid, {first})
    os.sched_setaffinity(0, cores - {first})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.sched_setaffinity(pid, cores)


def ahead_of_others() -> None:
    """Have this process run as soon as it can, whoever else wants the core; where we may (root)."""
    with contextlib.suppress(AttributeError, PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
