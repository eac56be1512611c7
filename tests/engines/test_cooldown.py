"""The time after a sweep of beat's: who is skipped in it, and what begins none."""

from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.reporting.report import PreviousAttempts, Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.cooldown import KEEP_S
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import COOLED, Sweep
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server

pytestmark = pytest.mark.every_server

DOOMED = 90 * KEYS_EACH


def run(server: Server, **options: Any) -> Report:
    """A sweep as beat asks for it, every 300 seconds."""
    return Sweep(Options(address=parse(server.url), **{"beat_interval_s": 300, **options})).run()


@pytest.mark.parametrize("name", ["lua", "python"])
def test_one_sweep_in_half_an_interval(name: EngineName, server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    first = run(server, engine=name)
    assert (first.keys_deleted, first.skipped) == (DOOMED, None)
    assert 0 < client.ttl(keys.COOLDOWN) <= KEEP_S
    write_acceptance_data(client, 100, 10)
    second = run(server, engine=name)
    assert (second.keys_deleted, second.skipped) == (0, COOLED)
    # whoever else asks for one, and an attempt that goes on with what another has begun, is not concerned
    assert run(server, engine=name, beat_interval_s=None).keys_deleted == DOOMED
    write_acceptance_data(client, 100, 10)
    assert run(server, engine=name, previous=PreviousAttempts(keys_deleted=6)).keys_deleted == DOOMED + 6
    # whatever has become of its TTL, it is over after half an interval
    client.set(keys.COOLDOWN, server_time_ms(client) - 145_000)
    assert run(server, engine=name).skipped == COOLED
    client.set(keys.COOLDOWN, server_time_ms(client) - 150_001)
    assert run(server, engine=name).complete


def test_what_begins_none(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    assert run(server, dry_run=True).complete
    assert run(server, beat_interval_s=None).complete
    client.set(keys.LOCK, "somebody", px=60_000)
    assert run(server).skipped
    assert not client.exists(keys.COOLDOWN)
    # by the end of a sweep that took more than half an interval the next one is due
    client.delete(keys.LOCK)
    for _sweep in range(2):
        assert run(server, beat_interval_s=0.001).complete


@pytest.mark.parametrize("ahead_s", [None, 3_600])
def test_one_that_says_nothing(server: Server, client: Redis, ahead_s: int | None) -> None:
    """It is somebody else's, of an earlier version, or from before the clock was set back."""
    value = b"1" if ahead_s is None else server_time_ms(client) + 1000 * ahead_s
    client.set(keys.COOLDOWN, value)
    assert run(server).complete
    assert run(server).skipped == COOLED


def test_where_it_cannot_be_written_the_sweep_is_done(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.acl_setuser(
        "few",
        enabled=True,
        passwords=["+p"],
        keys=["*"],
        commands=["+@all", "-set"],
    )
    try:
        write_acceptance_data(client, 100, 10)
        address = f"redis://few:p@127.0.0.1:{server.port}"
        report = Sweep(Options(address=parse(address), beat_interval_s=300)).run()
    finally:
        client.acl_deluser("few")
    assert report.skipped is None
    assert report.keys_deleted == DOOMED
    assert "Cooldown can't be written, the next sweep is done in any case" in caplog.text
