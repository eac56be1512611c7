"""What goes wrong with one primary of a cluster: told, and never made worse."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ClusterDownError, ConnectionError, TimeoutError

from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.rules import keys
from cleanup_tasks.servers import client as clients
from cleanup_tasks.servers.errors import is_transient
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.clusters import PRIMARIES, primary_of
from demo.dataset import KEYS_EACH, keys_of
from demo.servers import Server, free_port, running_server, wait_until
from demo.stack import Stack
from tests.support.clusters import Interrupted, RunningCluster, renew, sweep, write_coordinators
from tests.support.proxy import Proxy
from tests.support.sweeping import all_keys, clean, heartbeat_values, new_report

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
            beat = heartbeat_values(clients.server_time_ms(client))["stale"]
            for id_ in IDS:
                for key in keys_of(id_):
                    client.set(key, beat if key == keys.heartbeat(id_) else "1")
        yield node


def commands(client: Redis, name: str) -> int:
    """How many calls of a command the server counted."""
    return int(client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def test_a_deletion_whose_answer_is_lost_is_not_sent_again(name: EngineName) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        # Given a cluster behind a proxy that cuts the connection when the keys of other slots are deleted
        relay = stack.enter_context(Proxy(port))
        node = stack.enter_context(small_cluster(port, relay.port))
        client = stack.enter_context(node.client())
        relay.cut_at(b"$6\r\nUNLINK\r\n", 1)  # the command, not the script's text
        report = new_report(name)
        servers = stack.enter_context(servers_at(parse(f"redis+cluster://127.0.0.1:{relay.port}")))
        servers.connect()
        with pytest.raises(ConnectionError):
            clean(servers, engine_for(servers, name), report)
        # Then they went once, the report doesn't claim to know, and all heartbeats are there to be found
        assert commands(client, "unlink") == (KEYS_EACH - 1) * len(IDS)
        assert (report.complete, report.keys_deleted, report.reaped) == (False, 0, 0)
        assert report.cleanup_errors >= 1
        assert all_keys(client) == {keys.heartbeat(id_) for id_ in IDS}


def test_slots_that_nobody_serves(name: EngineName) -> None:
    """What is in them can't be seen, so no heartbeat goes."""
    port = free_port()
    with small_cluster(port, port) as node, node.client() as client:
        client.cluster("delslots", 16_383)
        report = new_report(name)
        with servers_at(parse(f"redis+cluster://127.0.0.1:{node.port}")) as servers:
            servers.connect()
            with pytest.raises(ClusterDownError):
                clean(servers, engine_for(servers, name), report)
        assert not report.complete
        assert report.reaped == 0
        kept = {key for id_ in IDS for key in (keys.heartbeat(id_), keys.activity(id_))}
        assert all_keys(client) == kept | {keys.IDEMPOTENCY + id_ + b":init" for id_ in IDS}
        client.cluster("addslots", 16_383)


def test_a_primary_that_is_killed_in_the_middle(own_cluster: RunningCluster, name: EngineName) -> None:
    cluster = own_cluster
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(1_000)])
    active = write_coordinators(cluster, [b"active-%d" % number for number in range(50)], "active")

    def kill(number: int) -> None:
        if number == 3:
            cluster.kill(1)

    # When a primary dies before the fourth batch
    report = new_report(name)
    with cluster.connect(batch_keys=500) as servers:
        engine = Interrupted.on(servers, name)
        engine.before = kill
        with pytest.raises((ConnectionError, ClusterDownError)) as failure:
            clean(servers, engine, report)
    # Then the others are cleaned all the same, and it is no clean success
    assert is_transient(failure.value)
    assert not report.complete
    assert report.cleanup_errors > 0
    assert engine.batches > 5
    # What is left can be found again: a coordinator with keys left has its heartbeat.
    cluster.replace_primary(1)
    left = cluster.keys() - active
    assert len(left) == len(written) - report.keys_deleted
    for key in left:
        assert keys.heartbeat(key.split(b":")[2]) in left
    # The next sweep takes the rest, and nothing is counted twice.
    again = sweep(cluster, name)
    assert again.complete
    assert report.keys_deleted + again.keys_deleted == len(written)
    assert cluster.keys() == active


def test_nothing_goes_whose_owner_can_not_be_asked(own_cluster: RunningCluster, name: EngineName) -> None:
    cluster = own_cluster
    ids = [b"worker-%d" % number for number in range(100)]
    here = next(id_ for id_ in ids if not {primary_of(key) for key in keys_of(id_)} & {1})
    lost = next(id_ for id_ in ids if primary_of(keys.heartbeat(id_)) == 1)
    now_ms = cluster.now_ms()
    messages = (b"%s:%s:completion:%d:%d" % (here, lost, turn, now_ms - 700_000) for turn in range(100))
    record = next(key for message in messages if primary_of(key := keys.IDEMPOTENCY + message) != 1)
    written = write_coordinators(cluster, [here, lost]) | {record}
    cluster.set({record: "1"})
    report = new_report(name)
    # When the primary with the heartbeat of one of two owners dies
    with cluster.connect() as servers:
        engine = Interrupted.on(servers, name)
        engine.before = lambda _number: cluster.kill(1)
        with pytest.raises((ConnectionError, ClusterDownError)):
            clean(servers, engine, report)
    # Then their record stays, and who else could find it again
    assert (report.keys_deleted, report.reaped) == (0, 0)
    cluster.replace_primary(1)
    assert cluster.keys() == written
    # For its owner may have given a sign of life meanwhile.
    renew(cluster, lost)
    sweep(cluster, name)
    assert cluster.keys() == {*keys_of(lost), record}


def test_a_successor_takes_over_between_batches(own_cluster: RunningCluster, name: EngineName) -> None:
    """One batch finds out that its primary is lost, and the next ones go to the successor."""
    cluster = own_cluster
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(400)])

    def replace(number: int) -> None:
        if number == 1:
            cluster.kill(1)
            cluster.replace_primary(1)

    report = new_report(name)
    with cluster.connect(batch_keys=500) as servers:
        engine = Interrupted.on(servers, name)
        engine.before = replace
        with pytest.raises(ConnectionError):
            clean(servers, engine, report)
    assert engine.batches > 3
    assert report.cleanup_errors == 1
    left = cluster.keys()
    assert 0 < len(left) == len(written) - report.keys_deleted
    assert sweep(cluster, name).keys_deleted == len(left)


def test_a_primary_that_is_killed_during_the_scan(own_cluster: RunningCluster) -> None:
    """What could not be seen must stay to be found: no heartbeat goes."""
    cluster = own_cluster
    ids = [b"worker-%d" % number for number in range(200)]
    written = write_coordinators(cluster, ids)

    def kill(what: str, _done: int, _total: int) -> None:
        if what == "collecting" and cluster.servers[1] in cluster.alive:
            cluster.kill(1)

    report = new_report("lua")
    with cluster.connect(scan_count=10) as servers, pytest.raises((ConnectionError, ClusterDownError)):
        clean(servers, engine_for(servers, "lua"), report, progress=kill)
    assert report.keys_deleted > 0
    assert report.reaped == 0
    cluster.replace_primary(1)
    assert {keys.heartbeat(id_) for id_ in ids} <= cluster.keys()
    again = sweep(cluster, "lua")
    assert report.keys_deleted + again.keys_deleted == len(written)
    assert cluster.keys() == set()


@pytest.mark.parametrize(
    "of_ours",
    [
        pytest.param(keys.LOCK, id="lock"),
        pytest.param(keys.SIGHTINGS, id="sightings"),
    ],
)
def test_a_lost_primary_with_a_key_of_ours(own_cluster: RunningCluster, of_ours: bytes) -> None:
    """The others are cleaned all the same."""
    cluster = own_cluster
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(50)])
    active = write_coordinators(cluster, [b"active"], "active")
    victim = cluster.number_of(of_ours)
    cluster.kill(victim)
    broken = Sweep(Options(address=parse(cluster.url), owner="me"))
    with pytest.raises((ConnectionError, ClusterDownError)):
        broken.run()
    assert broken.report.keys_deleted > 0
    assert broken.report.reaped == 0
    assert not broken.report.complete
    cluster.replace_primary(victim)
    again = sweep(cluster, "lua")
    assert broken.report.keys_deleted + again.keys_deleted == len(written)
    assert cluster.keys() == active


def test_the_task_tries_again_where_a_primary_is_lost(
    own_cluster: RunningCluster, server: Server, tmp_path: Path
) -> None:
    cluster = own_cluster
    ids = [b"worker-%d" % number for number in range(50)]
    written = write_coordinators(cluster, ids)
    active = write_coordinators(cluster, [b"active"], "active")
    ours = {cluster.number_of(keys.LOCK), cluster.number_of(keys.SIGHTINGS)}
    victim = next(number for number in range(PRIMARIES) if number not in ours)
    environment = {
        "COORDINATION_REDIS_URL": cluster.url,
        "CELERY_BROKER_URL": f"{server.url}/1",
        "CELERY_RESULT_BACKEND": f"{server.url}/2",
        "CLEANUP_LOG_FILE": "",
    }
    with (
        Stack(environment, tmp_path) as stack,
        Celery(
            broker=environment["CELERY_BROKER_URL"],
            backend=environment["CELERY_RESULT_BACKEND"],
            set_as_current=False,
        ) as app,
    ):
        stack.start_worker()
        # When the task meets a cluster that has lost a primary, and its replica takes over a little later
        cluster.kill(victim)
        result = app.send_task("cleanup_tasks.cleanup", queue="cleanup")
        stack.wait_for_line("worker", "Cleanup is tried again in 2 s")
        cluster.replace_primary(victim)
        metrics = result.get(timeout=30)
    # Then nothing is left, everything is counted once, and it doesn't pass for a clean success
    assert cluster.keys() == active
    assert metrics["keysDeleted"] == len(written)
    assert metrics["cleanupErrors"] >= 1
    assert metrics["complete"] is False
    assert metrics["implementation"] == "lua"


def completes(cluster: RunningCluster, name: EngineName) -> bool:
    """Sweep, if the cluster is not just about to replace the primary."""
    report = new_report(name)
    with contextlib.suppress(ConnectionError, TimeoutError, ClusterDownError), cluster.connect() as servers:
        clean(servers, engine_for(servers, name), report)
    return report.complete


def test_a_primary_that_hangs_costs_one_time_out(
    own_cluster: RunningCluster, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "TIMEOUT_S", 0.5)
    cluster = own_cluster
    written = write_coordinators(cluster, [b"worker-%d" % number for number in range(1_000)])
    victim = cluster.servers[1]
    report = new_report(name)
    started = time.monotonic()

    def hang(number: int) -> None:
        if number == 1:
            victim.process.send_signal(signal.SIGSTOP)

    try:
        with cluster.connect(batch_keys=500) as servers:
            engine = Interrupted.on(servers, name)
            engine.before = hang
            with pytest.raises((ConnectionError, TimeoutError)):
                clean(servers, engine, report)
        elapsed_s = time.monotonic() - started
    finally:
        victim.process.send_signal(signal.SIGCONT)
    assert engine.batches > 5
    assert elapsed_s < 5 * clients.TIMEOUT_S
    assert not report.complete
    # Once it goes on, the rest goes. What it did of its last batch it did, though nobody heard of it.
    wait_until(lambda: completes(cluster, name), "the rest is gone")
    assert cluster.keys() == set()
    assert len(written) == 6_000
