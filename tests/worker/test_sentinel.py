"""Real sentinels: whoever they call the primary is swept."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.servers.client import CLIENT_NAME
from cleanup_tasks.servers.errors import is_transient
from cleanup_tasks.servers.pipelining import LOW_LATENCY
from cleanup_tasks.servers.topology import Topology, servers_at
from cleanup_tasks.servers.url import parse
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import free_port, wait_until
from tests.support.sentinels import SERVICE, Sentinels, running_sentinels
from tests.support.sweeping import Before, all_keys, clean, new_report

#: The batch ahead of which something happens: some have landed, others are under way.
NUMBER = 5
IDS = [b"worker-%d" % number for number in range(1_000)]
ACTIVE = [b"active-%d" % number for number in range(5)]


@pytest.fixture(scope="module")
def shared_sentinels() -> Iterator[Sentinels]:
    with running_sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(shared_sentinels: Sentinels) -> Sentinels:
    """1,000 stale coordinators and 5 active ones, on whichever is the primary."""
    with shared_sentinels.primary().client() as client:
        client.flushall()
        write_coordinators(client, IDS, STALE_AGE_MS)
        write_coordinators(client, ACTIVE, ACTIVE_AGE_MS)
    return shared_sentinels


@contextlib.contextmanager
def connected(sentinels: Sentinels) -> Iterator[Topology]:
    """Whatever they call the primary; the first of the sentinels is down."""
    ports = [free_port(), *sentinels.ports]
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    with servers_at(parse(f"redis+sentinel://{places}/{SERVICE}/0")) as servers:
        servers.connect()
        yield servers


def in_the_middle(act: Callable[[], None]) -> Callable[[int, Batch], None]:
    """Do something ahead of one batch."""

    def happen(number: int, _batch: Batch) -> None:
        if number == NUMBER:
            act()

    return happen


def keys_of_active() -> set[bytes]:
    return {key for id_ in ACTIVE for key in keys_of(id_)}


def reachable(sentinels: Sentinels) -> bool:
    """Whether a sentinel names a primary in good health; during a failover none does for a moment."""
    with contextlib.suppress(ConnectionError), connected(sentinels):
        return True
    return False


@pytest.mark.parametrize(
    ("engine_class", "act"),
    [(LuaEngine, Sentinels.fail_over), (PythonEngine, Sentinels.kill_primary)],
    ids=["a failover and lua", "a killed primary and python"],
)
def test_a_new_primary_between_two_batches(
    sentinels: Sentinels,
    engine_class: type[LuaEngine] | type[PythonEngine],
    act: Callable[[Sentinels], None],
) -> None:
    old = sentinels.primary()
    first = new_report(engine_class.name)
    with connected(sentinels) as servers:
        engine = Before(engine_class(servers.client_for(b"")), in_the_middle(lambda: act(sentinels)))
        with pytest.raises(ConnectionError) as failure:
            clean(servers, engine, first)
    # The connections to the old primary are closed, and nothing is begun any more.
    assert len(engine.batches) <= NUMBER + engine.in_flight
    assert is_transient(failure.value)
    assert not first.complete
    assert first.keys_deleted > 0
    # A next attempt, which a task makes by itself, finds the new primary and does the rest.
    wait_until(lambda: sentinels.primary() is not old and reachable(sentinels), "the replica takes over")
    with sentinels.primary().client() as client:
        left = len(all_keys(client)) - len(keys_of_active())
    second = new_report(engine_class.name)
    with connected(sentinels) as servers:
        clean(servers, engine_class(servers.client_for(b"")), second)
    assert second.complete
    assert second.keys_deleted == left
    # What is not known of is counted as an error, and is no more than what was under way.
    unknown = 6 * len(IDS) - left - first.keys_deleted
    assert 0 <= unknown <= first.cleanup_errors * LOW_LATENCY.batch_keys
    assert 0 < first.cleanup_errors <= engine.in_flight
    with sentinels.primary().client() as client:
        assert all_keys(client) == keys_of_active()


def test_a_read_only_answer_has_the_primary_looked_up_anew(sentinels: Sentinels) -> None:
    others = set(questions(sentinels))  # of tests before, which may go at any time

    def asked() -> int:
        return sum(count for id_, count in questions(sentinels).items() if id_ not in others)

    with connected(sentinels) as servers:
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
