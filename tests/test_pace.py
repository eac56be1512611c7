"""How much a server is asked for at once goes by how far it is."""

from redis import Redis

from benchmarks.link import slow_link
from cleanup_tasks.engines import Engine
from cleanup_tasks.pace import FAR, NEAR, Pace
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server
from tests.sweeping import Before, new_report


def reached(client: Redis) -> Pace:
    """The pace of a server once it has answered."""
    servers = SingleServer(client)
    servers.reach()
    return servers.pace


def test_by_the_time_of_a_round_trip(server: Server, client: Redis) -> None:
    assert reached(client) == NEAR
    with slow_link(server.port, 0.002) as url, Redis.from_url(url) as far:
        assert reached(far) == FAR
    assert NEAR != FAR


def test_a_sweep_keeps_to_it(client: Redis, engine: Engine) -> None:
    write_acceptance_data(client, total=1_000, active=10)
    servers = SingleServer(client)
    servers.pace = Pace(scan_count=100, values=70, batch_keys=50, batches=1)
    seen = Before(engine, lambda *_: None)
    client.config_resetstat()
    report = new_report(engine.name)
    Sweep(servers, seen, report).run()
    assert report.keys_deleted == 990 * KEYS_EACH
    assert max(batch.size for batch in seen.batches) <= 50
    scans = client.info("commandstats")["cmdstat_scan"]["calls"]
    assert scans > 1_000 * KEYS_EACH // 100
