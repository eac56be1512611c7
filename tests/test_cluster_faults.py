"""What goes wrong with one primary of a cluster: told, and never made worse."""

import contextlib
import signal
import time
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ClusterDownError, ConnectionError, TimeoutError

from cleanup_tasks import connection, keys
from cleanup_tasks.report import Report
from cleanup_tasks.sweep import Sweep
from cleanup_tasks.topology import connect
from demo.dataset import KEYS_EACH, keys_of
from demo.servers import Server, free_port, running_server, wait_until
from tests.clusters import RunningCluster, running_cluster
from tests.proxy import Proxy
from tests.sweeping import all_keys, heartbeat_values, new_report
from tests.test_cluster import EngineClass, Interrupted, make, write_coordinators

__all__ = ["make"]  # a fixture

IDS = [b"worker-%d" % number for number in range(20)]


@contextlib.contextmanager
def small_cluster(port: int, announced: int) -> Iterator[Server]:
    """A cluster of one node, with stale coordinators."""
    options = {"enabled": "yes", "port": free_port(), "announce-port": announced}
    options |= {"require-full-coverage": "no"}
    words = [word for name, value in options.items() for word in (f"--cluster-{name}", str(value))]
    with running_server(*words, port=port) as node:
        with node.client() as client:
            client.cluster("addslotsrange", 0, 16_383)
            wait_until(lambda: client.cluster("info")["cluster_state"] == "ok", "it is complete")
            beat = heartbeat_values(connection.server_time_ms(client))["stale"]
            for id_ in IDS:
                for key in keys_of(id_):
                    client.set(key, beat if key == keys.heartbeat(id_) else "1")
        yield node


def commands(client: Redis, name: str) -> int:
    """How many calls of a command the server counted."""
    return int(client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def test_a_deletion_whose_answer_is_lost_is_not_sent_again(make: EngineClass) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        # Given a cluster behind a proxy that cuts the connection when the keys of other slots are deleted
        relay = stack.enter_context(Proxy(port))
        node = stack.enter_context(small_cluster(port, relay.port))
        client = stack.enter_context(node.client())
        relay.cut_at(b"UNLINK", 1)
        report = new_report(make.name)
        servers = stack.enter_context(connect(f"redis+cluster://127.0.0.1:{relay.port}"))
        servers.reach()
        with pytest.raises(ConnectionError):
            Sweep(servers, servers.engine(make), report).run()
        # Then they went once, the report doesn't claim to know, and all heartbeats are there to be found
        assert commands(client, "unlink") == (KEYS_EACH - 1) * len(IDS)
        assert (report.complete, report.keys_deleted, report.reaped) == (False, 0, 0)
        assert report.cleanup_errors >= 1
        assert all_keys(client) == {keys.heartbeat(id_) for id_ in IDS}


def test_slots_that_nobody_serves(make: EngineClass) -> None:
    """What is in them can't be seen, so no heartbeat goes."""
    port = free_port()
    with small_cluster(port, port) as node, node.client() as client:
        client.cluster("delslots", 16_383)
        report = new_report(make.name)
        with connect(f"redis+cluster://127.0.0.1:{node.port}") as servers:
            servers.reach()
            with pytest.raises(ClusterDownError):
                Sweep(servers, servers.engine(make), report).run()
        assert not report.complete
        assert report.reaped == 0
        assert all_keys(client) == {key for id_ in IDS for key in (keys.heartbeat(id_), keys.activity(id_))}
        client.cluster("addslots", 16_383)


def completes(cluster: RunningCluster, make: EngineClass) -> bool:
    """Sweep, if the cluster is not just about to replace the primary."""
    report = new_report(make.name)
    with contextlib.suppress(ConnectionError, TimeoutError, ClusterDownError), cluster.connect() as servers:
        Sweep(servers, servers.engine(make), report).run()
    return report.complete


def test_a_primary_that_hangs_costs_one_time_out(make: EngineClass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.5)
    with running_cluster() as cluster:
        written = write_coordinators(cluster, [b"worker-%d" % number for number in range(1_000)])
        victim = cluster.servers[1]
        report: Report = new_report(make.name)
        started = time.monotonic()

        def hang(number: int) -> None:
            if number == 1:
                victim.process.send_signal(signal.SIGSTOP)

        try:
            with cluster.connect() as servers:
                engine = Interrupted(servers, make)
                engine.before = hang
                with pytest.raises((ConnectionError, TimeoutError)):
                    Sweep(servers, engine, report).run()
            elapsed_s = time.monotonic() - started
        finally:
            victim.process.send_signal(signal.SIGCONT)
        assert engine.batches > 5
        assert elapsed_s < 5 * connection.TIMEOUT_S
        assert not report.complete
        # Once it goes on, the rest goes. What it did of its last batch it did, though nobody heard of it.
        wait_until(lambda: completes(cluster, make), "the rest is gone")
        assert cluster.keys() == set()
        assert len(written) == 6_000
