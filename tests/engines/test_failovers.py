"""What an old primary has deleted may be back after a failover: the report does not call that complete."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from redis import Redis
from redis.exceptions import ReadOnlyError, RedisError

from cleanup_tasks.servers.errors import is_transient
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import KEYS_EACH, STALE_AGE_MS, write_coordinators
from demo.servers import Server, running_server, wait_until
from tests.support.proxy import Proxy
from tests.support.sweeping import NamedEngine

pytestmark = pytest.mark.every_server

IDS = [b"worker-%d" % number for number in range(200)]
KEYS = len(IDS) * KEYS_EACH


def follow(replica: Redis, primary: Server) -> None:
    """Have a server become the replica of another, and wait until it has all that the other has."""
    replica.replicaof("127.0.0.1", str(primary.port))
    wait_until(lambda: replica.info()["master_link_status"] == "up", "it is in step")


def demote(server: Server, other: Server, _proxy: Proxy) -> None:
    with server.client() as client:
        client.replicaof("127.0.0.1", str(other.port))


def demote_for_a_moment(server: Server, other: Server, _proxy: Proxy) -> None:
    with server.client() as client:
        follow(client, other)
        client.replicaof("NO", "ONE")


def move_the_address(_server: Server, other: Server, proxy: Proxy) -> None:
    proxy.turn_to(other.port)


def get_a_replica(server: Server, other: Server, _proxy: Proxy) -> None:
    """With its first one a primary takes a replication id anew."""
    with server.client() as client, other.client() as replica:
        before = client.info()["master_replid"]
        follow(replica, server)
        assert client.info()["master_replid"] != before
        replica.replicaof("NO", "ONE")


Act = Callable[[Server, Server, Proxy], None]


def after_the_last(done: int, total: int) -> bool:
    """Once the last batch is answered; the sweep has not ended then."""
    return done == total


class At:
    """Something that happens once, between two batches or after the last."""

    def __init__(self, when: Callable[[int, int], bool], act: Callable[[], None]) -> None:
        self._when = when
        self._act = act
        self.has_happened = False

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == "reaping" and self._when(done, total) and not self.has_happened:
            self.has_happened = True
            self._act()


@pytest.fixture
def servers(server: Server) -> Iterator[tuple[Server, Server]]:
    """One with stale coordinators, and an empty one; the shared one is not to become a replica."""
    config = ("--repl-diskless-sync-delay", "0")
    binary = str(server.process.args[0])  # type: ignore[index]
    with running_server(*config, binary=binary) as own, running_server(*config, binary=binary) as other:
        with own.client() as client:
            write_coordinators(client, IDS, STALE_AGE_MS)
        yield own, other


@pytest.mark.parametrize("act", [demote, demote_for_a_moment, move_the_address])
def test_a_primary_that_is_replaced_at_the_end(
    servers: tuple[Server, Server], engine: NamedEngine, act: Act
) -> None:
    own, other = servers
    with Proxy(own.port) as proxy:
        happen = At(after_the_last, lambda: act(own, other, proxy))
        options = Options(address=parse(proxy.url), engine=engine.name, force=True, progress=happen)
        sweep = Sweep(options)
        with pytest.raises(ReadOnlyError, match="may be back") as failure:
            sweep.run()
    # A retry may find what is back
    assert is_transient(failure.value)
    report = sweep.report
    assert (report.keys_deleted, report.complete, report.cleanup_errors) == (KEYS, False, 1)
    assert "may be back" in str(report.failure)


@pytest.mark.parametrize("act", [demote, move_the_address])
def test_a_primary_that_is_replaced_in_the_middle(
    servers: tuple[Server, Server], engine: NamedEngine, act: Act
) -> None:
    """The next attempt may find again what went: then the numbers of both are not exact."""
    own, other = servers
    with Proxy(own.port) as proxy:
        happen = At(lambda done, total: done < total, lambda: act(own, other, proxy))
        given = {"engine": engine.name, "force": True, "is_retried": True}
        options = Options(address=parse(proxy.url), progress=happen, **given)  # type: ignore[arg-type]
        first = Sweep(options)
        with pytest.raises(RedisError) as failure:
            first.run()
        assert is_transient(failure.value)
        assert 0 < first.report.keys_deleted < KEYS
        assert (first.report.complete, first.report.cleanup_errors > 0) == (False, True)
        with own.client() as client:
            client.replicaof("NO", "ONE")
        second = Sweep(replace(options, previous=first.so_far(), previous_owner=options.owner))
        assert not second.run().complete


def test_what_is_no_failover(servers: tuple[Server, Server], engine: NamedEngine) -> None:
    own, other = servers
    with Proxy(own.port) as proxy:
        happen = At(after_the_last, lambda: get_a_replica(own, other, proxy))
        options = Options(address=parse(proxy.url), engine=engine.name, force=True, progress=happen)
        report = Sweep(options).run()
    assert happen.has_happened
    assert (report.keys_deleted, report.complete, report.failure) == (KEYS, True, None)
