"""More stale coordinators than are held at once: they are dealt with generation by generation."""

from dataclasses import replace

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from cleanup_tasks import finder, keys, single
from cleanup_tasks.batch import Batch
from cleanup_tasks.connection import CLIENT_NAME
from cleanup_tasks.engines import Engine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.pace import NEAR
from cleanup_tasks.sweep import Sweep
from cleanup_tasks.topology import connect
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import running_server, wait_until
from tests.sweeping import Before, all_keys, new_report, sweep, write_heartbeat, write_stale


def in_generations(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Have the stale dealt with in lots of about that size."""
    monkeypatch.setattr(finder, "GENERATION", size)
    monkeypatch.setattr(single, "NEAR", replace(NEAR, scan_count=size, values=size))


def one_by_one(client: Redis, monkeypatch: pytest.MonkeyPatch, number: int) -> list[bytes]:
    """That many stale coordinators, each a generation of its own."""
    in_generations(monkeypatch, 1)
    ids = [b"c%d" % each for each in range(number)]
    write_stale(client, *ids)
    return ids


def test_the_stale_go_in_generations(client: Redis, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at once has a limit, whatever there is."""
    in_generations(monkeypatch, 50)
    write_acceptance_data(client, total=510, active=10)
    seen = Before(engine, lambda *_: None)
    report = sweep(client, seen)
    assert (report.stale_coordinators_found, report.active_coordinators) == (500, 10)
    assert (report.keys_deleted, report.complete) == (500 * KEYS_EACH, True)
    assert client.dbsize() == 10 * KEYS_EACH
    held = [len(batch.snapshot.values) for batch in seen.batches]
    assert 50 <= max(held) < 150
    assert len({id(batch.snapshot) for batch in seen.batches}) > 4


def test_a_record_of_two_generations_goes_with_the_last_of_its_owners(
    client: Redis, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = one_by_one(client, monkeypatch, 20)
    client.mset({b"blocking:idempotency:%s:done:1:2" % b":".join(ids[at : at + 3]): "1" for at in range(18)})
    write_heartbeat(client, b"living", "active")
    kept = b"blocking:idempotency:c7:living:done:1:2"
    client.set(kept, "1")
    dry = sweep(client, engine, dry_run=True)
    report = sweep(client, engine)
    assert report.keys_deleted == dry.keys_deleted == 20 * KEYS_EACH + 18
    assert all_keys(client) == {keys.heartbeat(b"living"), kept}


def test_whoever_revives_between_two_generations_keeps_what_it_shares(
    client: Redis, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = one_by_one(client, monkeypatch, 10)
    client.mset({b"blocking:idempotency:%s:%s:done:1:2" % (a, b): "1" for a in ids for b in ids if a < b})
    met: list[bytes] = []

    def beat_again(number: int, batch: Batch) -> None:
        # Given one that was reaped already, and starts anew
        if number == 5:
            met.extend(seen.batches[0].own)
            write_heartbeat(client, met[0], "active")
            client.set(b"blocking:idempotency:%s:c9:done:3:4" % met[0], "1")

    seen = Before(engine, beat_again)
    sweep(client, seen)
    left = all_keys(client)
    assert keys.heartbeat(met[0]) in left
    assert b"blocking:idempotency:%s:c9:done:3:4" % met[0] in left
    assert {key for key in left if met[0] not in key.split(b":")} == set()


def test_orphans_are_looked_for_when_all_heartbeats_are_known(
    client: Redis, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(client, monkeypatch, 10)
    write_heartbeat(client, b"living", "active")
    client.mset({keys.signal(b"living"): "1", keys.signal(b"orphan"): "1", b"blocking:ack:orphan:1": "1"})
    report = sweep(client, engine, orphans="report")
    assert report.orphaned_coordinators_found == 1
    assert report.keys_deleted == 10 * KEYS_EACH


def test_a_server_that_hangs_up_on_idlers(
    engine: LuaEngine | PythonEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one thing is done at length, no connection that another will need is held."""
    in_generations(monkeypatch, 100)
    told: set[str] = set()
    report = new_report(engine.name)
    with (
        running_server("--timeout", "1") as server,
        server.client(retry_on_error=[ConnectionError]) as client,
    ):

        def idle(what: str, _done: int, _total: int) -> None:
            if what not in told and what != "reaping":
                told.add(what)
                wait_until(lambda: not ours(client), "the server has hung up")

        write_acceptance_data(client, total=500, active=10)
        with connect(server.url) as servers:
            Sweep(servers, servers.engine(type(engine)), report, idle).run()
    assert (report.keys_deleted, report.complete) == (490 * KEYS_EACH, True)


def ours(client: Redis) -> list[str]:
    """The sweep's connections."""
    return [other["addr"] for other in client.client_list() if other["name"] == CLIENT_NAME]
