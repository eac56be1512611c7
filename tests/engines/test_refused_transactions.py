"""Servers that take no transaction: nothing is deleted without one, and it is said why."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ExecAbortError, OutOfMemoryError, RedisError

from cleanup_tasks.engines.python import MEMORY_FULL
from cleanup_tasks.servers.errors import is_transient, may_have_happened
from cleanup_tasks.servers.pipelining import PipelinedConnection
from demo.dataset import KEYS_EACH, write_acceptance_data
from tests.support.sweeping import NamedEngine, sweep

STALE, ACTIVE = 90, 10


@pytest.fixture
def full(client: Redis) -> Iterator[Redis]:
    """A server whose memory is full, and that evicts nothing."""
    write_acceptance_data(client, STALE + ACTIVE, ACTIVE)
    client.config_set("maxmemory", 1)
    yield client
    client.config_set("maxmemory", 0)


def queues_when_full(client: Redis) -> bool:
    """Whether the server takes a deletion into a transaction while its memory is full."""
    with PipelinedConnection(client) as connection:
        connection.send(("MULTI",), ("UNLINK", "nothing"), ("EXEC",))
        return not any(isinstance(answer, RedisError) for answer in connection.receive_each(3))


def test_a_full_memory(full: Redis, engine: NamedEngine) -> None:
    if engine.name == "lua" or queues_when_full(full):
        report = sweep(full, engine)
        assert (report.keys_deleted, report.complete) == (STALE * KEYS_EACH, True)
        assert full.dbsize() == ACTIVE * KEYS_EACH
        return
    with pytest.raises(OutOfMemoryError, match=MEMORY_FULL) as failure:
        sweep(full, engine)
    assert is_transient(failure.value)
    assert full.dbsize() == (STALE + ACTIVE) * KEYS_EACH


@pytest.mark.every_server
def test_a_primary_that_is_demoted_before_exec(client: Redis) -> None:
    """Nothing was done, and the next attempt may find the new one."""
    client.set("k", "1")
    try:
        with PipelinedConnection(client) as connection:
            connection.send(("MULTI",), ("UNLINK", "k"))
            connection.receive_each(2)
            client.replicaof("127.0.0.1", "1")
            connection.send(("EXEC",))
            (answer,) = connection.receive_each(1)
    finally:
        client.replicaof("NO", "ONE")
    assert isinstance(answer, ExecAbortError)
    assert is_transient(answer)
    assert not may_have_happened(answer)
    assert client.exists("k")
