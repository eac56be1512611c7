"""More stale coordinators than are held at once: they are dealt with generation by generation."""

from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import Batch, EngineName
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import CLIENT_NAME, server_time_ms
from cleanup_tasks.servers.pipelining import LOW_LATENCY, Limits
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep import collector, fleet
from cleanup_tasks.sweep.explanation import Explanation
from cleanup_tasks.sweep.options import Options
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, running_server, wait_until
from tests.support.sweeping import (
    Before,
    NamedEngine,
    all_keys,
    clean,
    hold_at_most,
    new_report,
    sweep,
    write_heartbeat,
    write_stale,
)


def in_generations(monkeypatch: pytest.MonkeyPatch, size: int) -> Limits:
    """Have the stale dealt with in lots of that size; returns the limits to sweep with."""
    hold_at_most(monkeypatch, size)
    return replace(LOW_LATENCY, scan_count=size, read_keys=size)


def one_by_one(client: Redis, monkeypatch: pytest.MonkeyPatch, number: int) -> tuple[list[bytes], Limits]:
    """That many stale coordinators, each a generation of its own."""
    ids = [b"c%d" % each for each in range(number)]
    write_stale(client, *ids)
    return ids, in_generations(monkeypatch, 1)


def reaped_in(batch: Batch) -> list[bytes]:
    """The ids whose heartbeat a batch holds."""
    return keys.ids_of_heartbeats(key for key in batch.keys if key.startswith(keys.HEARTBEAT))


def test_the_stale_go_in_generations(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held at once has a limit, whatever there is."""
    limits = in_generations(monkeypatch, 50)
    write_acceptance_data(client, total=510, active=10)
    # Given how many SCAN passes there were before each batch
    seen = Before(engine, lambda *_: None)
    client.config_resetstat()
    report = sweep(client, seen, limits=limits)
    assert (report.stale_coordinators_found, report.active_coordinators) == (500, 10)
    assert (report.keys_deleted, report.complete) == (500 * KEYS_EACH, True)
    assert client.dbsize() == 10 * KEYS_EACH
    # Ten passes for related keys, besides the one for heartbeats; SCAN goes through the buckets
    passes = commands(client)["scan"] / (510 * KEYS_EACH / 50)
    assert 5 < passes < 22
    reaped = [len(reaped_in(batch)) for batch in seen.batches]
    assert sum(reaped) == 500
    assert max(reaped) <= 50
    judged = [batch.judged_at_ms for batch in seen.batches]
    assert judged == sorted(judged)


@pytest.mark.parametrize("orphans", ["off", "report"])
def test_where_too_many_keys_are_held_half_of_the_coordinators_wait(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch, orphans: str
) -> None:
    monkeypatch.setattr(collector, "MAX_KEY_BYTES", 10_000)
    write_acceptance_data(client, total=110, active=10)
    client.mset(
        {
            b"blocking:idempotency:test-coordinator-%d:test-coordinator-%d:done:1:2" % (one, one + 1): "1"
            for one in range(99)
        }
    )
    client.set(b"blocking:signal:orphan", "1")
    limits = replace(LOW_LATENCY, scan_count=20)
    announced = sweep(client, engine, dry_run=True, orphans=orphans, limits=limits)
    client.config_resetstat()
    seen = Before(engine, lambda *_: None)
    report = sweep(client, seen, orphans=orphans, limits=limits)
    # Then there are several generations, and all goes all the same
    assert report.keys_deleted == announced.keys_deleted == 100 * KEYS_EACH + 99
    assert report.orphaned_coordinators_found == (1 if orphans == "report" else 0)
    assert client.dbsize() == 10 * KEYS_EACH + 1
    # one pass for heartbeats, and one for each generation
    assert commands(client)["scan"] > 4 * (110 * KEYS_EACH / 20)
    assert sum(len(reaped_in(batch)) for batch in seen.batches) == 100


def commands(client: Redis) -> dict[str, int]:
    """The calls of each command."""
    statistics: dict[str, Any] = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in statistics.items()}


def test_a_record_of_two_generations_goes_with_the_last_of_its_owners(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, limits = one_by_one(client, monkeypatch, 20)
    client.mset({b"blocking:idempotency:%s:done:1:2" % b":".join(ids[at : at + 3]): "1" for at in range(18)})
    write_heartbeat(client, b"living", "active")
    kept = b"blocking:idempotency:c7:living:done:1:2"
    client.set(kept, "1")
    dry = sweep(client, engine, dry_run=True, limits=limits)
    report = sweep(client, engine, limits=limits)
    assert report.keys_deleted == dry.keys_deleted == 20 * KEYS_EACH + 18
    assert all_keys(client) == {keys.heartbeat(b"living"), kept}


def test_whoever_revives_between_two_generations_keeps_what_it_shares(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, limits = one_by_one(client, monkeypatch, 10)
    client.mset({b"blocking:idempotency:%s:%s:done:1:2" % (a, b): "1" for a in ids for b in ids if a < b})
    met: list[bytes] = []

    def beat_again(number: int, batch: Batch) -> None:
        # Given one that was reaped already, and starts anew
        if number == 5:
            met.extend(reaped_in(seen.batches[0]))
            write_heartbeat(client, met[0], "active")
            client.set(b"blocking:idempotency:%s:c9:done:3:4" % met[0], "1")

    seen = Before(engine, beat_again)
    sweep(client, seen, limits=limits)
    left = all_keys(client)
    assert keys.heartbeat(met[0]) in left
    assert b"blocking:idempotency:%s:c9:done:3:4" % met[0] in left
    assert {key for key in left if met[0] not in key.split(b":")} == set()


def test_orphans_are_looked_for_when_all_heartbeats_are_known(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ids, limits = one_by_one(client, monkeypatch, 10)
    write_heartbeat(client, b"living", "active")
    client.mset({keys.signal(b"living"): "1", keys.signal(b"orphan"): "1", b"blocking:ack:orphan:1": "1"})
    report = sweep(client, engine, orphans="report", limits=limits)
    assert report.orphaned_coordinators_found == 1
    assert report.keys_deleted == 10 * KEYS_EACH


@pytest.mark.parametrize("by", ["lua", "python"])
def test_a_server_that_hangs_up_on_idlers(by: EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thing is done at length, no connection that another will need is held."""
    in_generations(monkeypatch, 100)
    told: set[str] = set()
    report = new_report(by)
    with (
        running_server("--timeout", "1") as server,
        server.client(retry_on_error=[ConnectionError]) as client,
    ):

        def idle(what: str, _done: int, _total: int) -> None:
            if what not in told and what != "reaping":
                told.add(what)
                wait_until(lambda: not ours(client), "the server has hung up")

        write_acceptance_data(client, total=500, active=10)
        with servers_at(parse(server.url)) as servers:
            servers.connect()
            clean(servers, engine_for(servers, by), report, progress=idle)
    assert (report.keys_deleted, report.complete) == (490 * KEYS_EACH, True)


def ours(client: Redis) -> list[str]:
    """The sweep's connections."""
    return [other["addr"] for other in client.client_list() if other["name"].startswith(CLIENT_NAME)]


@pytest.mark.parametrize("limit", ["MAX_COORDINATOR_BYTES", "MAX_KEY_BYTES"])
def test_orphans_that_are_due_do_not_wait(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """They have a limit of their own, and nobody would find them again by a heartbeat."""
    now_ms = server_time_ms(client)
    ids = [b"orphan-%d" % number for number in range(4)]
    client.mset({keys.signal(id_): "1" for id_ in ids})
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(ids, now_ms - 2_000_000))
    write_stale(client, *(b"c%d" % number for number in range(5)))
    for module in (fleet, collector):
        monkeypatch.setattr(module, limit, 2_000, raising=False)
    announced = sweep(client, engine, dry_run=True, orphans="reap")
    report = sweep(client, engine, orphans="reap")
    assert (report.orphaned_coordinators_found, report.orphaned_coordinators_reaped) == (4, 4)
    assert report.keys_deleted == announced.keys_deleted == 5 * KEYS_EACH + 4
    assert all_keys(client) == set()


def test_an_explanation_of_who_waits_for_a_later_part(
    client: Redis, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first part go; of the others it is said why nothing is said of their keys."""
    write_stale(client, b"first", b"second", b"third")
    monkeypatch.setattr(fleet, "MAX_COORDINATOR_BYTES", 1)
    options = Options(parse(server.url))
    with servers_at(options.address, options.tls) as servers:
        servers.connect()
        explained = Explanation(servers, options).explain()
    waiting = [each.reason for each in explained if not each.goes]
    assert [each.verdict for each in explained] == 3 * ["stale"]
    assert waiting == 2 * [
        "no sign of life for more than 10 min; too many are stale to go at once, so a later part of the same "
        "sweep looks at it again"
    ]


def test_whoever_had_no_heartbeat_when_sighted_is_protected_in_each_generation(
    client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not only in the first one: all have written a heartbeat since, by a clock that is behind."""
    ids, limits = one_by_one(client, monkeypatch, 4)
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(ids, server_time_ms(client) - 60_000))
    report = sweep(client, engine, orphans="reap", limits=limits)
    assert (report.keys_deleted, report.revived_coordinators, report.complete) == (0, 4, True)
