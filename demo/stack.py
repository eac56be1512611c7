"""A real worker, beat and dashboard as processes of this machine."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from demo.servers import stop, wait_until

ROOT = Path(__file__).resolve().parents[1]

#: How the variables begin that we, Celery and Flower read.
SETTINGS = ("REDIS_", "COORDINATION_", "CELERY_", "CLEANUP_", "FLOWER_")


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without any setting, so that nothing of the user's is reached by it."""
    return {name: value for name, value in environment.items() if not name.startswith(SETTINGS)}


class Stack:
    """Celery processes that share an environment; a context manager that leaves none behind."""

    def __init__(self, environment: Mapping[str, str], folder: Path, app: str = "cleanup_tasks") -> None:
        """Processes get `environment` on top of ours, without any setting of ours; logs go to `folder`."""
        defaults = {
            "PYTHONUNBUFFERED": "1",
            "CLEANUP_LOG_FILE": "",
            # servers of a stack come up, and take over, all the time
            "CLEANUP_RESTART_GRACE_SECONDS": "0",
            "FLOWER_DB": str(folder / "flower"),
            # a worker that has to be killed leaves files there
            "TMPDIR": str(folder),
        }
        self.environment = without_settings(os.environ) | defaults | dict(environment)
        self.folder = folder
        self._app = app
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> str:
        """What a process has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run ``celery -A app`` with these arguments, in a process group of its own.

        `environment` is what this process has on top of the others.
        """
        command = [sys.executable, "-m", "celery", "-A", self._app, *arguments]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def start_worker(
        self, name: str = "worker", *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A worker on the cleanup queue, once it is ready for tasks; one child unless told otherwise."""
        options = [
            "--queues",
            "cleanup",
            "--concurrency",
            "1",
            "--hostname",
            f"{name}@%h",
            "--loglevel",
            "INFO",
            "--without-mingle",  # which waits a second for the answers of other workers
        ]
        process = self.start(name, "worker", *options, *arguments, environment=environment)
        self.wait_for_line(name, "ready.")
        return process

    def start_beat(self) -> subprocess.Popen[bytes]:
        """The beat, which fires the cleanup every interval."""
        process = self.start("beat", "beat", "--loglevel", "INFO", "--pidfile=")
        self.wait_for_line("beat", "beat: Starting")
        return process

    def start_flower(self, port: int) -> subprocess.Popen[bytes]:
        """The dashboard on the loopback."""
        options = ["--address=127.0.0.1", f"--port={port}"]
        process = self.start("flower", "flower", *options)
        self.wait_for_line("flower", "Connected to")
        return process

    def wait_for_line(self, name: str, text: str, seconds: float = 60.0) -> None:
        """Until a process has printed `text`; raises RuntimeError with its log where it ends before."""

        def printed() -> bool:
            if text in self.log(name):
                return True
            if self._processes[name].poll() is not None:
                raise RuntimeError(f"{name} ended before it printed {text!r}:\n{self.log(name)}")
            return False

        wait_until(printed, f"{name} prints {text!r}", seconds)

    def check(self) -> None:
        """Raise RuntimeError with the log of the first process that has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)}")

    def stop(self, *names: str) -> None:
        """End some processes and what they started."""
        processes = [self._processes.pop(name) for name in names]
        stop(*processes)
        # A worker that had to be killed leaves its children; they are in its group.
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything, the last started first."""
        self.stop(*reversed(self._processes))
