"""Sweeps of all kinds, stopped and killed at random: by the command, and by a worker and its beat."""

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from demo.servers import Server
from demo.stack import Stack
from tests.churn.network import Network
from tests.support.command import COMMAND

#: A user that may do everything but run scripts.
NO_SCRIPTS = "noscript"
ACL = (NO_SCRIPTS, "on", ">p", "~*", "&*", "+@all", "-@scripting")
#: Often enough that a sweep by beat is now and then stopped by its time limit.
INTERVAL_S = 2
#: What may become of a command: it ends, or gets one of these signals at a random moment.
FATES = (None, None, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
#: A user, and the options, of a command.
OPTIONS = (("",), ("",), (NO_SCRIPTS,), ("", "--fallback"))
#: Requests of a sweep, about.
REQUESTS = 30
#: How a command may end; by SIGTERM itself, where that comes after the sweep.
STATUSES = {0, 1, 2, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM}


class Sweeps:
    """Has a coordination Redis swept."""

    def __init__(
        self,
        network: Network,
        broker: Server,
        folder: Path,
        threshold_s: int,
        chance: random.Random,
        free_lock: Callable[[], object],
    ) -> None:
        """Nothing runs yet.

        Args:
            network: where the coordination Redis is.
            broker: a server for the messages of beat and worker.
            folder: where logs go.
            threshold_s: the threshold of all sweeps.
            chance: what is left to chance.
            free_lock: removes the lock of a sweep that was killed, which would stay for half a minute.
        """
        self._network = network
        self._chance = chance
        self._free_lock = free_lock
        self._threshold_s = threshold_s
        self.counts: Counter[str] = Counter()
        #: What a command printed that ended as none should.
        self.wrong: list[str] = []
        self._environment = {
            "CLEANUP_STALE_THRESHOLD_SECONDS": str(threshold_s),
            "CLEANUP_ORPHANS": "reap",
            "CLEANUP_INTERVAL_SECONDS": str(INTERVAL_S),
            "CLEANUP_RESTART_GRACE_SECONDS": "0",
            "CLEANUP_LOG_FILE": "",
            "CELERY_BROKER_URL": f"{broker.url}/1",
            "CELERY_RESULT_BACKEND": f"{broker.url}/2",
        }
        self._stack = Stack(self._environment, folder)
        self._worker: subprocess.Popen[bytes] | None = None
        #: Every other one may not run scripts; which one is the first is left to chance.
        self._workers = chance.randrange(2)
        self._options = itertools.cycle(OPTIONS)
        self._fates = itertools.cycle(chance.sample(FATES, len(FATES)))

    def _place(self, user: str = "") -> dict[str, str]:
        """The variable that names the coordination Redis."""
        login = f"{user}:p@" if user else ""
        return {"COORDINATION_REDIS_URL": self._network.url.replace("://", f"://{login}")}

    def command(self) -> None:
        """One sweep by the command, and what becomes of it."""
        fate = next(self._fates)
        user, *options = next(self._options)
        words = [COMMAND, "--timeout", f"{2 * self._threshold_s}s", *options]
        process = subprocess.Popen(
            words,
            env=os.environ | self._environment | self._place(user),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with process:
            try:
                if fate is not None:
                    self._network.at_request(
                        self._chance.randrange(REQUESTS), lambda: self._strike(process, fate)
                    )
                printed, _ = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                printed = "Traceback: none, it did not end"
            finally:
                process.kill()
        if process.returncode not in STATUSES or "Traceback" in printed:
            self.wrong.append(f"{words} {user}, {fate!r}, ended with {process.returncode}: {printed}")
        self._count_sweeps("commands", printed)
        self._free_lock()

    def _strike(self, process: "subprocess.Popen[str]", fate: signal.Signals) -> None:
        if process.poll() is not None:
            return
        self.counts[fate.name] += 1
        process.send_signal(fate)
        if fate == signal.SIGSTOP:
            time.sleep(self._chance.uniform(0.3, 1.5) * self._threshold_s)
            process.send_signal(signal.SIGCONT)

    def start_worker(self) -> None:
        """A worker; one that runs is killed. Every other one may not run scripts."""
        if self._worker is not None:
            os.killpg(self._worker.pid, signal.SIGKILL)
            self._stack.stop("worker")
            self._count_sweeps("workers", self._stack.log("worker"))
            self.counts["workers killed"] += 1
            self._free_lock()
        user = NO_SCRIPTS if self._workers % 2 else ""
        self._workers += 1
        self._worker = self._stack.start_worker(environment=self._place(user))

    def kill_child(self) -> None:
        """Kill the process of the worker that sweeps, a few requests from now; the worker starts another."""
        self._network.at_request(self._chance.randrange(REQUESTS), self._kill_child)

    def _count_sweeps(self, whose: str, log: str) -> None:
        self.counts.update(
            f"{whose}, {engine}: {outcome}"
            for outcome, engine in re.findall(r"outcome=(\w+) .*engine=(\w+)", log)
        )

    def _kill_child(self) -> None:
        assert self._worker is not None
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._worker.pid).children():
                child.kill()
                self.counts["worker's children killed"] += 1
        self._free_lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Worker and beat run for the length of a with block."""
        with self._stack:
            self.start_worker()
            self._stack.start_beat()
            yield
        self._count_sweeps("workers", self._stack.log("worker"))

    def last(self) -> str:
        """A forced sweep that nothing disturbs; returns what it prints if it is no success."""
        environment = os.environ | self._environment | self._place()
        command = [COMMAND, "--force"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return "" if "outcome=success" in ended.stdout else f"{ended.stdout}{ended.stderr}"
