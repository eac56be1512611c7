"""A real cluster of three primaries and three replicas, started by the tests, and sweeps of it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

from redis.crc import key_slot

from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import Answer, Batch, EngineName
from cleanup_tasks.engines.cluster import ClusterEngine
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.cluster import Cluster
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.servers.url import parse
from demo.clusters import PRIMARIES, command, running_nodes
from demo.dataset import keys_of
from demo.servers import Server, wait_until
from tests.support.sweeping import clean, heartbeat_values, new_report, script_calls

#: After this many ms without an answer a primary counts as lost, and its replica takes over.
NODE_TIMEOUT_MS = 1_000


class RunningCluster:
    """The servers of a cluster, by number: 0 to 2 start as primaries, 3 to 5 as their replicas."""

    def __init__(self, servers: list[Server]) -> None:
        """`servers` have formed the cluster."""
        self.servers = servers
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers[:2])

    def connect(self, **limits: int) -> Cluster:
        """What a sweep would use, with some of the `Limits` changed."""
        cluster = servers_at(parse(self.url))
        assert isinstance(cluster, Cluster)
        cluster.connect()
        cluster.limits = replace(cluster.limits, **limits)
        return cluster

    def owner(self, slot: int) -> Server:
        """The primary that serves a slot, as the nodes say."""
        for server in self.alive:
            with server.client() as client:
                for first, last, (_host, port, *_), *_ in command(client, "CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return next(server for server in self.servers if server.port == port)
        raise AssertionError(f"nobody serves slot {slot}")

    def number_of(self, key: bytes) -> int:
        """The number of the primary that serves a key."""
        return self.servers.index(self.owner(key_slot(key)))

    def keys(self) -> set[bytes]:
        """Every key of every primary."""
        found: set[bytes] = set()
        for server in self.primaries():
            with server.client() as client:
                found |= set(client.scan_iter(count=10_000))
        return found

    def primaries(self) -> list[Server]:
        """Those that are primaries now."""
        chosen = []
        for server in self.alive:
            with server.client() as client:
                if command(client, "ROLE")[0] == b"master":
                    chosen.append(server)
        return chosen

    @property
    def alive(self) -> list[Server]:
        """Those that were not killed."""
        return [server for server in self.servers if server.process.poll() is None]

    def kill(self, number: int) -> None:
        """A server dies; its replica has all that it said."""
        with self.servers[number].client() as client:
            assert client.wait(1, 10_000) == 1
        self.servers[number].process.kill()
        self.servers[number].process.wait()

    def replace_primary(self, number: int) -> None:
        """Have the replica of a primary that was killed take over, without waiting for the election."""
        successor = self.servers[number + PRIMARIES]
        with successor.client() as client:
            command(client, "CLUSTER FAILOVER TAKEOVER")

        def known() -> bool:
            return all(
                successor.port
                in {row[2][1] for row in command(stack.enter_context(server.client()), "CLUSTER SLOTS")}
                for server in self.alive
            )

        with contextlib.ExitStack() as stack:
            wait_until(known, "all know the new primary")

    def now_ms(self) -> int:
        """The time of one of the servers."""
        with self.primaries()[0].client() as client:
            return server_time_ms(client)

    def move_slot(self, slot: int, *, finish: bool = True) -> Callable[[], None]:
        """Move a slot and its keys to another primary; returns what finishes it, where that is left out."""
        source = self.owner(slot)
        target = next(server for server in self.primaries() if server is not source)
        with source.client() as old, target.client() as new:
            old_name, new_name = (command(client, "CLUSTER MYID").decode() for client in (old, new))
            command(new, f"CLUSTER SETSLOT {slot} IMPORTING {old_name}")
            command(old, f"CLUSTER SETSLOT {slot} MIGRATING {new_name}")
            found = command(old, f"CLUSTER GETKEYSINSLOT {slot} 1000")
            if found:
                old.migrate("127.0.0.1", target.port, found, 0, 5000)

        def complete() -> None:
            # All are told, as redis-cli does; gossip alone may leave two that each name the other.
            others = [server for server in self.primaries() if server not in (source, target)]
            for server in (target, source, *others):
                with server.client() as client:
                    command(client, f"CLUSTER SETSLOT {slot} NODE {new_name}")

        if finish:
            complete()
        return complete

    def clear(self) -> None:
        """Nothing in it."""
        for server in self.primaries():
            with server.client() as client:
                client.flushall()
                client.script_flush()
                client.config_resetstat()

    def set(self, values: Mapping[bytes, bytes | str]) -> None:
        """Write many keys, each where it belongs."""
        by_server: dict[int, dict[bytes, bytes | str]] = {}
        with self.connect() as cluster:
            for key, value in values.items():
                by_server.setdefault(cluster.owner(key_slot(key))[1], {})[key] = value
        for server in self.servers:
            if server.port in by_server:
                with server.client() as client, client.pipeline(transaction=False) as pipe:
                    for key, value in by_server[server.port].items():
                        pipe.set(key, value)
                    pipe.execute()


@contextlib.contextmanager
def running_cluster() -> Iterator[RunningCluster]:
    """A cluster for the length of a with block."""
    config = (
        *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
        *("--cluster-require-full-coverage", "no"),
        *("--cluster-replica-validity-factor", "0"),
        *("--repl-diskless-sync-delay", "0"),
        *("--enable-debug-command", "local"),
    )
    with running_nodes(*config, replicas=PRIMARIES) as servers:
        yield RunningCluster(servers)


def sweep(cluster: RunningCluster, name: EngineName, *, dry_run: bool = False, **options: Any) -> Report:
    """Sweep the cluster, and assert by the servers' own counters that this engine ran."""
    before = calls(cluster)
    report = new_report(name, dry_run=dry_run)
    with cluster.connect() as servers:
        clean(servers, engine_for(servers, name), report, **options)
    found_some = report.stale_coordinators_found or report.orphaned_coordinators_reaped
    assert (calls(cluster) > before) == (name == "lua" and found_some > 0)
    return report


def calls(cluster: RunningCluster) -> int:
    """How many EVALSHA calls the primaries counted."""
    total = 0
    for server in cluster.primaries():
        with server.client() as client:
            total += script_calls(client)
    return total


def write_coordinators(cluster: RunningCluster, coordinators: list[bytes], kind: str = "stale") -> set[bytes]:
    """Write the six keys of each; returns them."""
    beat = heartbeat_values(cluster.now_ms())[kind]
    values: dict[bytes, bytes | str] = {}
    for id_ in coordinators:
        heartbeat, *related = keys_of(id_)
        values |= {heartbeat: beat, **dict.fromkeys(related, "1")}
    cluster.set(values)
    return set(values)


def renew(cluster: RunningCluster, coordinator: bytes) -> None:
    """The coordinator beats."""
    cluster.set({keys.heartbeat(coordinator): heartbeat_values(cluster.now_ms())["active"]})


class Interrupted(ClusterEngine):
    """Calls `before` ahead of a batch, and `between` after its keys in other slots went."""

    before: Callable[[int], object] = staticmethod(lambda _number: None)
    between: Callable[[], object] = staticmethod(lambda: None)
    batches = 0

    @classmethod
    def on(cls, servers: Cluster, name: EngineName) -> Self:
        """The engine that a sweep of that name would have, to be interrupted."""
        engine = engine_for(servers, name)
        assert isinstance(engine, ClusterEngine)
        return cls(servers, engine.make)

    def receive(self) -> tuple[Batch, Answer]:
        """See `Engine.receive`."""
        self.before(self.batches)
        self.batches += 1
        return super().receive()

    def _delete_together(self, *arguments: Any) -> None:
        self.between()
        super()._delete_together(*arguments)
