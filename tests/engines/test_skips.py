"""Sweeps that are skipped one after the other: for some time that is well, and then a failure."""

from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.errors import is_transient
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.skips import AlwaysSkipped
from cleanup_tasks.sweep.sweep import LOCKED, Sweep
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, running_server
from tests.support.command import run_command
from tests.support.sweeping import NamedEngine

pytestmark = pytest.mark.every_server

INTERVAL_S = 100


def run(server: Server, **options: Any) -> Report:
    return Sweep(Options(address=parse(server.url), interval_s=INTERVAL_S, **options)).run()


def hold_lock(client: Redis) -> None:
    """As somebody does who takes it again and again."""
    client.set(keys.LOCK, "somebody", px=60_000)


def skipped_since(client: Redis, seconds: int) -> None:
    """As if the first one had been skipped so long ago."""
    assert client.exists(keys.SKIPPED)
    client.set(keys.SKIPPED, server_time_ms(client) - 1000 * seconds, keepttl=True)


def test_to_be_skipped_for_ever_is_no_success(server: Server, client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, 20, 10)
    hold_lock(client)
    for seconds in (0, INTERVAL_S, 3 * INTERVAL_S - 5):
        assert run(server, engine=engine.name).skipped == LOCKED
        skipped_since(client, seconds)
        assert 3_000 * INTERVAL_S < client.pttl(keys.SKIPPED) <= 4_000 * INTERVAL_S
    assert run(server, engine=engine.name).skipped == LOCKED
    skipped_since(client, 3 * INTERVAL_S + 5)
    sweep = Sweep(Options(address=parse(server.url), interval_s=INTERVAL_S, engine=engine.name))
    with pytest.raises(AlwaysSkipped, match=r"since .* UTC: another sweep") as skip:
        sweep.run()
    report = sweep.report
    assert not is_transient(skip.value)
    assert (report.skipped, report.failure) == (LOCKED, str(skip.value))
    assert (report.complete, report.keys_deleted) == (False, 0)
    command = run_command(server.url, CLEANUP_INTERVAL_SECONDS=str(INTERVAL_S))
    assert command.returncode == 2
    assert "no sweep has come to its end since" in command.stdout + command.stderr
    # Once somebody comes to the end, all is well, and nothing is left
    client.delete(keys.LOCK)
    assert run(server, engine=engine.name).complete
    assert client.dbsize() == 10 * KEYS_EACH
    hold_lock(client)
    assert run(server, engine=engine.name).skipped == LOCKED


def test_one_that_comes_up_again_and_again(server: Server) -> None:
    """What is skipped for another reason is no success either; a dry run writes nothing and never fails."""
    binary = str(server.process.args[0])  # type: ignore[index]
    with running_server("--appendonly", "yes", binary=binary) as young, young.client() as client:
        write_acceptance_data(client, 20, 10)
        for dry_run in (True, False):
            assert "came up" in str(run(young, dry_run=dry_run).skipped)
            assert client.exists(keys.SKIPPED) == (not dry_run)
        skipped_since(client, 3 * INTERVAL_S + 5)
        assert "came up" in str(run(young, dry_run=True).skipped)
        with pytest.raises(AlwaysSkipped, match="came up"):
            run(young)


@pytest.mark.parametrize("value", ["somebody's", "1" * 5_000, "99999999999999"])
def test_a_note_that_says_nothing(server: Server, client: Redis, value: str) -> None:
    client.set(keys.SKIPPED, value)
    hold_lock(client)
    assert run(server).skipped == LOCKED
    assert client.pttl(keys.SKIPPED) > 0


def test_a_note_that_cannot_be_read(server: Server, client: Redis) -> None:
    client.hset(keys.SKIPPED, "not", "ours")
    hold_lock(client)
    assert run(server).skipped == LOCKED
