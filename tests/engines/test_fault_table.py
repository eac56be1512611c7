"""Each fault at each step of a sweep, a row each: what is left is right, and the report is true.

Faults of a cluster are in `tests/cluster/test_faults.py`, those of processes, broker and result backend in
`tests/worker/test_lost_parts.py`, those of log and standard output in `tests/worker/test_log.py` and
`test_streams.py`.
"""

import contextlib
from itertools import product

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.rules import keys
from cleanup_tasks.servers import client as clients
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.errors import ScriptingRefused
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, wait_until
from tests.support.faults import FAULTS, Striking, heal
from tests.support.sweeping import all_keys

#: Step -> a word of its request, and the how-manieth such request it is. The first EVALSHA is a trial.
COMMON = {
    "connect": (b"HELLO", 1),
    "lock": (keys.LOCK, 1),
    "find": (b"GETRANGE", 1),
    "sightings": (b"HSCAN", 1),
    "collect": (keys.RELATED_PATTERN, 1),
    "note": (b"HSET", 1),
}
STEPS: dict[EngineName, dict[str, tuple[bytes, int]]] = {
    "lua": {**COMMON, "script": (b"SCRIPT", 1), "delete": (b"EVALSHA", 2)},
    "python": {**COMMON, "look": (b"WATCH", 1), "delete": (b"UNLINK", 1)},
}
ROWS = [(fault, step, engine) for engine in STEPS for fault, step in product(FAULTS, STEPS[engine])]
OURS = {keys.LOCK, keys.SIGHTINGS, keys.COOLDOWN, keys.HOLD, keys.SKIPPED}

STALE = [b"stale-%d" % number for number in range(30)]
ORPHANS = [b"orphan-%d" % number for number in range(10)]
LIVING = [b"living-%d" % number for number in range(3)]


def write(client: Redis) -> tuple[set[bytes], set[bytes]]:
    """Stale ones, due orphans, a new one, and living ones; returns the keys that go, and that stay."""
    client.flushall()
    write_coordinators(client, STALE + ORPHANS, STALE_AGE_MS)
    client.delete(*map(keys.heartbeat, ORPHANS))
    sighted_ms = server_time_ms(client) - STALE_AGE_MS
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(ORPHANS, sighted_ms))
    doomed = all_keys(client) - OURS
    write_coordinators(client, LIVING, 1_000)
    record = b"blocking:idempotency:%s:%s:done:1:%d" % (STALE[0], LIVING[0], sighted_ms)
    client.mset({record: "1", keys.signal(b"new"): "1"})
    return doomed, all_keys(client) - OURS - doomed


def sweep(url: str, engine: EngineName) -> Sweep:
    """One that has not begun."""
    return Sweep(Options(address=parse(url), engine=engine, orphans="reap"))


def connections(client: Redis) -> set[str]:
    """The numbers of all that the server has."""
    return {each["id"] for each in client.client_list(_type="normal")}


@pytest.mark.parametrize(("fault", "step", "engine"), ROWS)
def test_a_fault(
    fault: str,
    step: str,
    engine: EngineName,
    server: Server,
    client: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # so long do we wait for an answer that is held back
    monkeypatch.setattr(clients, "TIMEOUT_S", 0.5)
    doomed, kept = write(client)
    # a connection that is there before others are refused
    with server.client(single_connection_client=True) as admin, Striking(server.port) as proxy:
        others = connections(admin)
        word, occurrence = STEPS[engine][step]
        proxy.strike_at(word, occurrence, lambda: FAULTS[fault](proxy, admin))
        struck = sweep(proxy.url, engine)
        try:
            with contextlib.suppress(RedisError, ScriptingRefused):
                struck.run()
        finally:
            heal(proxy, admin)
        assert proxy.has_struck
        # the living have lost nothing, and the report says what was done
        there = all_keys(client) - OURS
        gone, report = doomed - there, struck.report
        assert there >= kept
        assert report.keys_deleted <= len(gone)
        assert report.keys_deleted == len(gone) or report.cleanup_errors
        assert report.complete == (there == kept and report.failure is None)
        assert report.complete or report.failure or report.cleanup_errors
        assert struck.connected or not gone
        # what it could not free frees itself, see test_lock; the next sweep does the rest
        client.delete(keys.LOCK)
        again = sweep(proxy.url, engine).run()
        assert (again.complete, again.keys_deleted) == (True, len(doomed - gone))
        assert all_keys(client) - OURS == kept
        client.connection_pool.disconnect()
        wait_until(lambda: connections(admin) <= others, "no connection of the sweeps is left")
