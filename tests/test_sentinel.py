"""Real sentinels: whoever they call the primary is swept."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from cleanup_tasks.batch import Batch
from cleanup_tasks.connection import CLIENT_NAME
from cleanup_tasks.engines import Engine, Reaping
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.failures import is_transient
from cleanup_tasks.pace import NEAR
from cleanup_tasks.sweep import Sweep
from cleanup_tasks.topology import connect
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import free_port, wait_until
from tests.sentinels import SERVICE, Sentinels, running_sentinels
from tests.sweeping import all_keys, new_report

#: Batches that are sent before.
NUMBER = 2 * NEAR.batches
IDS = [b"worker-%d" % number for number in range(1_000)]
ACTIVE = [b"active-%d" % number for number in range(5)]


@pytest.fixture(scope="module")
def shared_sentinels() -> Iterator[Sentinels]:
    with running_sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(shared_sentinels: Sentinels) -> Sentinels:
    """500 stale coordinators and 5 active ones, on whichever is the primary."""
    with shared_sentinels.primary().client() as client:
        client.flushall()
        write_coordinators(client, IDS, STALE_AGE_MS)
        write_coordinators(client, ACTIVE, ACTIVE_AGE_MS)
    return shared_sentinels


def url(sentinels: Sentinels) -> str:
    """The first of the sentinels is down."""
    ports = [free_port(), *sentinels.ports]
    return "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + f"/{SERVICE}/0"


class InTheMiddle:
    """Does something ahead of a batch, when some have landed and others are under way."""

    def __init__(self, engine: Engine, act: Callable[[], None]) -> None:
        self.name = engine.name
        self._engine = engine
        self._act = act
        self.batches = 0

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        if self.batches == NUMBER:
            self._act()
        self.batches += 1
        return self._engine.reap(batch, threshold_s, dry_run=dry_run)


def keys_of_active() -> set[bytes]:
    return {key for id_ in ACTIVE for key in keys_of(id_)}


def test_a_failover_between_two_batches(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    report = new_report("lua")
    with connect(url(sentinels)) as servers:
        servers.reach()
        engine = InTheMiddle(servers.engine(LuaEngine), sentinels.fail_over)
        Sweep(servers, engine, report).run()
    # The sentinels closed the old primary's connections, and the sweep went on with the new one.
    assert engine.batches > NUMBER + 1
    assert sentinels.primary() is not old
    assert report.complete
    assert report.keys_deleted == 6 * len(IDS)
    with sentinels.primary().client() as client:
        assert all_keys(client) == keys_of_active()


def reachable(sentinels: Sentinels) -> bool:
    """Whether a sentinel names a primary in good health; during a failover none does for a moment."""
    with contextlib.suppress(ConnectionError), connect(url(sentinels)) as servers:
        servers.reach()
        return True
    return False


def test_a_primary_that_is_killed_between_two_batches(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    first = new_report("python")
    with connect(url(sentinels)) as servers:
        servers.reach()
        engine = InTheMiddle(servers.engine(PythonEngine), sentinels.kill_primary)
        with pytest.raises(ConnectionError) as failure:
            Sweep(servers, engine, first).run()
    assert engine.batches == NUMBER + 1
    assert is_transient(failure.value)
    assert not first.complete
    assert first.keys_deleted > 0
    # A next attempt, which a task makes by itself, finds the new primary and does the rest.
    wait_until(lambda: sentinels.primary() is not old and reachable(sentinels), "the replica takes over")
    second = new_report("python")
    with connect(url(sentinels)) as servers:
        servers.reach()
        Sweep(servers, servers.engine(PythonEngine), second).run()
    assert second.complete
    assert first.keys_deleted + second.keys_deleted == 6 * len(IDS)
    with sentinels.primary().client() as client:
        assert all_keys(client) == keys_of_active()


def test_a_read_only_answer_has_the_primary_looked_up_anew(sentinels: Sentinels) -> None:
    others = set(questions(sentinels))  # of tests before, which may go at any time

    def asked() -> int:
        return sum(count for id_, count in questions(sentinels).items() if id_ not in others)

    with connect(url(sentinels)) as servers:
        client = servers.client_for(b"any")
        client.set("key", "1")
        before = asked()
        client.set("key", "2")
        assert asked() == before > 0
        # Given a primary that was demoted and keeps its clients
        with sentinels.primary().client() as direct:
            direct.replicaof("127.0.0.1", str(free_port()))
            # Then the answer is a failure that a retry gets over
            with pytest.raises(ConnectionError):
                client.set("key", "3")
            direct.replicaof("NO", "ONE")
        client.set("key", "4")
        assert asked() > before


def questions(sentinels: Sentinels) -> dict[str, int]:
    """How many commands the first sentinel had from each of our clients."""
    with Redis(port=sentinels.ports[0]) as client:
        ours = [other for other in client.client_list() if other["name"] == CLIENT_NAME]
        return {other["id"]: int(other["tot-cmds"]) for other in ours}
