"""The churn: a fleet that lives and dies while it is swept, and what the living lost."""

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from demo.clusters import PRIMARIES, command
from demo.servers import Server, running_server, stop, wait_until
from demo.stack import ROOT
from tests.churn.monitor import LAST_WORDS
from tests.churn.network import Network
from tests.churn.sweeps import ACL, Sweeps
from tests.support.clusters import RunningCluster, running_cluster

#: So small that a pause is above or below it within a test.
THRESHOLD_S = 3
#: How often a worker is killed and another one started, in seconds.
WORKER_LIVES_S = 8
#: Lines that are shown of each kind.
MOST_LINES = 20


@dataclass
class Outcome:
    """What a churn has shown."""

    seed: int
    #: A line for each key that a living coordinator lost, with what was done before.
    lost: list[str]
    #: Where MONITOR does not explain what is there, and commands that ended as none should.
    wrong: list[str]
    #: Keys that are left after all have died and were swept.
    left: list[bytes]
    #: What was done by whom, and how often.
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.lost or self.wrong or self.left)

    def told(self) -> str:
        """What was wrong, for people."""
        lists: dict[str, Sequence[object]] = {
            "keys were lost by living coordinators": self.lost,
            "other things were wrong": self.wrong,
            "keys are left": self.left,
        }
        lines = [f"seed {self.seed}"]
        for what, found in lists.items():
            lines.append(f"{len(found)} {what}")
            lines += [f"  {each}" for each in found[:MOST_LINES]]
        return "\n".join(lines)


class Place:
    """Where the coordinators' keys are: one server."""

    def __init__(self, server: Server) -> None:
        """It is empty."""
        self._server = server
        self.shards = [[server.port]]

    def way(self, network: Network) -> AbstractContextManager[None]:
        """Have sweeps go through a network."""
        return network.to_server(self._server)

    def alive(self) -> list[Server]:
        """The servers that were not killed."""
        return [self._server]

    def primaries(self) -> list[Server]:
        """Those that hold the keys."""
        return [self._server]

    def fail_over(self, _chance: random.Random) -> None:
        """Nothing is there that could take over."""


class ClusterPlace(Place):
    """Where the coordinators' keys are: a cluster, of which a primary dies."""

    def __init__(self, cluster: RunningCluster) -> None:
        """It is empty, and complete."""
        self._cluster = cluster
        ports = [server.port for server in cluster.servers]
        self.shards = [[ports[number], ports[number + PRIMARIES]] for number in range(PRIMARIES)]

    def way(self, network: Network) -> AbstractContextManager[None]:
        """See `Place`."""
        return network.to_cluster(self._cluster)

    def alive(self) -> list[Server]:
        """See `Place`."""
        return self._cluster.alive

    def primaries(self) -> list[Server]:
        """See `Place`."""
        return self._cluster.primaries()

    def fail_over(self, chance: random.Random) -> None:
        """A primary dies, and its replica takes over as the cluster has decided."""
        number = chance.randrange(PRIMARIES)
        self._cluster.kill(number)
        with self._cluster.servers[number + PRIMARIES].client() as successor:
            wait_until(lambda: command(successor, "ROLE")[0] == b"master", "a replica has taken over")


@contextlib.contextmanager
def _program(name: str, *arguments: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A program of this package; gives what waits for its end and returns what it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.churn.{name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:

        def result() -> dict[str, Any]:
            printed, _ = process.communicate(timeout=60)
            assert process.returncode == 0, f"{name} ended with {process.returncode}"
            shown: dict[str, Any] = json.loads(printed.splitlines()[-1])
            return shown

        yield result
    finally:
        stop(process)
        assert process.stdout is not None
        process.stdout.close()


def _watched(place: Place) -> bool:
    """Whether a MONITOR runs on each server."""
    for server in place.alive():
        with server.client() as client:
            if not any(other["cmd"] == "monitor" for other in client.client_list()):
                return False
    return True


def churn(place: Place, broker: Server, folder: Path, seconds: float, seed: int) -> Outcome:
    """Let a fleet live for some seconds while it is swept, and judge each deletion."""
    chance = random.Random(seed)

    def on_each(act: Callable[[Any], object], servers: list[Server]) -> None:
        for server in servers:
            with contextlib.suppress(RedisError), server.client() as client:
                act(client)

    def free_lock() -> None:
        # a server that doesn't serve the key refuses
        on_each(lambda client: client.delete(keys.LOCK), place.primaries())

    on_each(lambda client: client.execute_command("ACL", "SETUSER", *ACL), place.alive())
    network = Network(chance, 1.3 * THRESHOLD_S)
    shards, threshold = json.dumps(place.shards), ("--threshold", str(THRESHOLD_S))
    with place.way(network):
        sweeps = Sweeps(network, broker, folder, THRESHOLD_S, chance, free_lock)
        with _program("replay", shards, *threshold) as judged:
            wait_until(lambda: _watched(place), "all servers are watched")
            lives = ("--seconds", str(seconds), "--seed", str(seed))
            with sweeps.running(), _program("coordinators", shards, *threshold, *lives) as lived:
                _sweep(sweeps, place, seconds, chance)
                counts = lived()
            on_each(lambda client: client.echo(LAST_WORDS), place.alive())
            result = judged()
        died_ms = _now_ms(place)
        wait_until(lambda: _now_ms(place) > died_ms + 1000 * (THRESHOLD_S + 1), "all were silent for long")
        free_lock()
        network.is_calm = True
        last = sweeps.last()
        # it protects those that have written since a hold or a sighting, for as long as the threshold
        swept_ms = _now_ms(place)
        wait_until(lambda: _now_ms(place) > swept_ms + 1000 * (THRESHOLD_S + 1), "nobody is protected")
        last += sweeps.last()
    left: set[bytes] = set()
    on_each(lambda client: left.update(client.scan_iter(count=1_000)), place.primaries())
    return Outcome(
        seed,
        result["lost"],
        result["wrong"] + sweeps.wrong + [last] * bool(last),
        sorted(key for key in left if not key.startswith(b"blocking:cleanup:")),
        {**counts, **result["counts"], **sweeps.counts},
    )


def _sweep(sweeps: Sweeps, place: Place, seconds: float, chance: random.Random) -> None:
    began_s = time.monotonic()
    next_worker_s, has_failed_over = WORKER_LIVES_S, False
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        if elapsed_s > seconds / 2 and not has_failed_over:
            has_failed_over = True
            place.fail_over(chance)
        if elapsed_s > next_worker_s:
            next_worker_s += WORKER_LIVES_S
            sweeps.start_worker()
        if chance.random() < 0.3:
            sweeps.kill_child()
        sweeps.command()


def _now_ms(place: Place) -> int:
    with place.primaries()[0].client() as client:
        return server_time_ms(client)


def standalone(seconds: float, seed: int) -> Outcome:
    """On one server."""
    with running_server() as server, running_server() as broker, tempfile.TemporaryDirectory() as folder:
        return churn(Place(server), broker, Path(folder), seconds, seed)


def cluster(seconds: float, seed: int) -> Outcome:
    """On a cluster of three primaries and three replicas, of which a primary dies in the middle."""
    with running_cluster() as nodes, running_server() as broker, tempfile.TemporaryDirectory() as folder:
        return churn(ClusterPlace(nodes), broker, Path(folder), seconds, seed)
