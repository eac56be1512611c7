"""Where the keys are while we measure: servers of our own, filled once, set back before every run."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice

from redis import RedisCluster

from benchmarks.dataset import Dataset
from demo.clusters import command, running_nodes
from demo.servers import running_server

#: DEBUG RELOAD sets a server back; the slow log keeps all commands of half a ms or more.
CONFIG = (
    "--enable-debug-command local --rdbcompression no --slowlog-log-slower-than 500 --slowlog-max-len 99999"
)
#: Microseconds and name of the longest command; answered by the server, for the slow log can be long. To
#: forget a long one takes ms too, and is noted in the next.
LONGEST = """
local longest = {500, ''}
for _, entry in ipairs(redis.call('SLOWLOG', 'GET', -1)) do
  if entry[3] > longest[1] and entry[4][1] ~= 'SLOWLOG' then longest = {entry[3], entry[4][1]} end
end
return longest
"""
#: After so many seconds the data is written anew: the living would grow stale.
FRESH_S = 300.0
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(pid: int, *, server: bool = False) -> None:
    """Leave the first core to the main thread of a server, and the others to everybody else.

    What a server does is then its own time. Only where there are two cores or more, and on Linux.
    """
    if len(CORES) > 1:
        os.sched_setaffinity(pid, CORES[:1] if server else CORES[1:])


class Place:
    """One server, or the three primaries of a cluster, with a data set; `url` is what a sweep is given."""

    def __init__(self, stack: ExitStack, dataset: Dataset, *, cluster: bool, own_core: bool = True) -> None:
        """Start servers that run until the end of a stack; nothing is written yet."""
        if cluster:  # they share the cores with everybody
            servers = stack.enter_context(running_nodes(*CONFIG.split()))
        else:
            servers = [stack.enter_context(running_server(*CONFIG.split()))]
            if own_core:
                pin(servers[0].process.pid, server=True)
        self.ports, self.dataset, self.single = [s.port for s in servers], dataset, not cluster
        self.url = servers[0].url if self.single else f"redis+cluster://127.0.0.1:{self.ports[0]}"
        # To load millions of keys takes longer than a client's usual patience.
        self._clients = [server.client(socket_timeout=None) for server in servers]
        self._filled_s = -FRESH_S

    def restore(self) -> None:
        """Bring the data set back, and forget the slow log, and what scripts left in the interpreter."""
        if time.monotonic() - self._filled_s >= FRESH_S:
            self._filled_s = time.monotonic()
            self._fill()
        for client in self._clients:
            command(client, "DEBUG RELOAD NOSAVE")
            client.script_flush("SYNC")
            client.slowlog_reset()

    def _fill(self) -> None:
        for client in self._clients:
            client.flushall()
        write: Callable[[dict[str, str]], object] = self._clients[0].mset
        if not self.single:
            write = RedisCluster(host="127.0.0.1", port=self.ports[0]).mset_nonatomic
        items = self.dataset.items(int(time.time() * 1000))
        while values := dict(islice(items, 5_000)):
            write(values)
        for client in self._clients:
            client.save()

    def state(self) -> tuple[float, int]:
        """CPU time in ms of the servers' main threads since they started, and how many keys there are."""
        cpus: list[dict[str, float]] = [client.info("cpu") for client in self._clients]
        seconds = sum(cpu[f"used_cpu_{kind}_main_thread"] for cpu in cpus for kind in ("user", "sys"))
        return seconds * 1000, sum(int(client.dbsize()) for client in self._clients)

    def longest(self) -> tuple[float, str]:
        """Ms and name of the longest command since `restore`; 0.5 and no name where none took longer."""
        microseconds, name = max(client.eval(LONGEST, 0) for client in self._clients)
        return microseconds / 1000, name.decode()
