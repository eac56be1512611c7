"""How much a server is asked for at once goes by how far it is."""

from redis import Redis

from benchmarks.link import slow_link
from cleanup_tasks.engines import engine_for
from cleanup_tasks.servers.pipelining import HIGH_LATENCY, HIGH_LATENCY_S, LOW_LATENCY, Limits
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.servers.url import parse
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server
from tests.support.sweeping import Before, NamedEngine, sweep


def test_by_the_time_of_a_round_trip(server: Server) -> None:
    with servers_at(parse(server.url)) as near:
        near.connect()
        assert near.limits == LOW_LATENCY
    with slow_link(server.port, 2 * HIGH_LATENCY_S) as url, servers_at(parse(url)) as servers:
        servers.connect()
        assert servers.limits == HIGH_LATENCY
        assert engine_for(servers, "lua").in_flight == HIGH_LATENCY.in_flight
    assert HIGH_LATENCY.in_flight > LOW_LATENCY.in_flight
    assert HIGH_LATENCY.batch_keys > LOW_LATENCY.batch_keys


def test_a_sweep_keeps_to_them(client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, total=1_000, active=10)
    seen = Before(engine, lambda *_: None)
    client.config_resetstat()
    few = Limits(scan_count=100, read_keys=70, batch_keys=50, in_flight=1)
    report = sweep(client, seen, limits=few)
    assert report.keys_deleted == 990 * KEYS_EACH
    # a batch is full once it has so many, and a coordinator is not cut
    assert max(batch.load for batch in seen.batches) < 50 + KEYS_EACH + 2
    scans = client.info("commandstats")["cmdstat_scan"]["calls"]
    assert scans > 1_000 * KEYS_EACH // 100
