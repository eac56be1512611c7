"""Work in a process of its own, forked when all is imported, so that its CPU time and memory are its own."""

import contextlib
import multiprocessing
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
