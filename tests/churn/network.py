"""A network between sweeps and servers, which holds requests back and cuts connections."""

import contextlib
import random
from collections.abc import Callable, Iterator

from demo.clusters import command
from demo.servers import Server, wait_until
from tests.support.clusters import RunningCluster
from tests.support.proxy import Proxy

#: How many of a hundred requests are held back, and how many find their connection cut.
HELD_BACK, CUT = 2, 0.5


class Network:
    """What happens to the requests of all sweeps; `url` is where they find the servers."""

    def __init__(self, chance: random.Random, longest_s: float) -> None:
        """Nobody is connected yet; `longest_s`: for how long a request may be held back."""
        self.url = ""
        self._chance = chance
        self._longest_s = longest_s
        self._waiting: list[tuple[int, Callable[[], object]]] = []
        self._requests = 0
        self.is_calm = False

    def at_request(self, number: int, act: Callable[[], object]) -> None:
        """Have something done once so many more requests were sent."""
        self._waiting.append((self._requests + number, act))

    def seconds_to_hold(self) -> float:
        """For how long a request is held back, in seconds; raises ConnectionResetError for one to be cut."""
        self._requests += 1
        due = [entry for entry in self._waiting if entry[0] < self._requests]
        self._waiting = [entry for entry in self._waiting if entry not in due]
        for _, act in due:
            act()
        what = 100 if self.is_calm else self._chance.uniform(0, 100)
        if what < CUT:
            raise ConnectionResetError
        # more often for a short time than for a long one
        return self._longest_s * self._chance.random() ** 2 if what < CUT + HELD_BACK else 0

    @contextlib.contextmanager
    def to_server(self, server: Server) -> Iterator[None]:
        """To one server."""
        with _Way(server.port, self) as way:
            self.url = way.url
            yield

    @contextlib.contextmanager
    def to_cluster(self, cluster: RunningCluster) -> Iterator[None]:
        """To a cluster, whose servers say that they are where the network is."""
        with contextlib.ExitStack() as stack:
            ways = [stack.enter_context(_Way(server.port, self)) for server in cluster.servers]
            for server, way in zip(cluster.servers, ways, strict=True):
                with server.client() as client:
                    client.config_set("cluster-announce-port", way.port)

            def known() -> bool:
                return all(_ports(server) == {way.port for way in ways} for server in cluster.servers)

            wait_until(known, "all servers are where the network is")
            self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{way.port}" for way in ways[:2])
            yield


def _ports(server: Server) -> set[int]:
    """The ports that a server knows of those of its cluster."""
    with server.client() as client:
        return {port for _, _, *places in command(client, "CLUSTER SLOTS") for _, port, *_ in places}


class _Way(Proxy):
    """The network in front of one server."""

    def __init__(self, port: int, network: Network) -> None:
        super().__init__(port)
        self._network = network

    def pass_on(self, request: bytes) -> None:
        """See `Proxy`. What replicas send is let alone."""
        if b"REPLCONF" not in request and b"PSYNC" not in request:
            self._ended.wait(self._network.seconds_to_hold())
