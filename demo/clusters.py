"""A real cluster on this machine: its servers find each other, share the slots, and may have replicas."""

import contextlib
from bisect import bisect
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from demo.servers import Server, free_port, running_server, wait_until

PRIMARIES = 3
SLOTS = 16_384
#: The first slot of each primary, and the end.
BOUNDS = [SLOTS * number // PRIMARIES for number in range(PRIMARIES + 1)]


def command(client: Redis, text: str) -> Any:
    """A command's raw answer."""
    return client.execute_command(*text.split())  # type: ignore[no-untyped-call]


def primary_of(key: bytes) -> int:
    """The number of the primary that serves a key as long as no slot has moved."""
    return bisect(BOUNDS, key_slot(key)) - 1


@contextlib.contextmanager
def running_nodes(*config: str, replicas: int = 0, binary: str | None = None) -> Iterator[list[Server]]:
    """The servers of a cluster for the length of a with block: three primaries, then their replicas."""
    with contextlib.ExitStack() as stack:
        servers, bus_ports = [], []
        for _ in range(PRIMARIES + replicas):
            bus_ports.append(free_port())
            cluster = ("--cluster-enabled", "yes", "--cluster-port", str(bus_ports[-1]))
            servers.append(stack.enter_context(running_server(*cluster, *config, binary=binary)))
        clients = [stack.enter_context(server.client()) for server in servers]
        _form(clients, [f"127.0.0.1 {s.port} {bus}" for s, bus in zip(servers, bus_ports, strict=True)])
        yield servers


def _form(clients: list[Redis], places: list[str]) -> None:
    for client, first, end in zip(clients, BOUNDS[:-1], BOUNDS[1:], strict=False):
        command(client, f"CLUSTER ADDSLOTSRANGE {first} {end - 1}")
    for place in places[1:]:
        command(clients[0], f"CLUSTER MEET {place}")
    wait_until(lambda: all(_nodes(client) == len(clients) for client in clients), "the nodes know each other")
    names = [command(client, "CLUSTER MYID").decode() for client in clients]
    for client, name in zip(clients[PRIMARIES:], cycle(names[:PRIMARIES]), strict=False):
        wait_until(lambda: _replicate(client, name), "a replica knows its primary")  # noqa: B023
    replicas = len(clients) // PRIMARIES - 1
    wait_until(lambda: all(_is_settled(client, replicas) for client in clients), "the cluster is complete")


def _nodes(client: Redis) -> int:
    return int(client.execute_command("CLUSTER INFO")["cluster_known_nodes"])  # type: ignore[no-untyped-call]


def _replicate(client: Redis, name: str) -> bool:
    try:
        command(client, f"CLUSTER REPLICATE {name}")
    except ResponseError:
        return False
    return True


def _is_settled(client: Redis, replicas: int) -> bool:
    ranges = command(client, "CLUSTER SLOTS")
    if client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":  # type: ignore[no-untyped-call]
        return False
    role = command(client, "ROLE")
    return (
        len(ranges) == PRIMARIES
        and all(len(row) == 3 + replicas for row in ranges)
        and role[3:4] in ([], [b"connected"])
    )
