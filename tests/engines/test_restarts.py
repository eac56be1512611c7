"""A server that came up with old data, or took over from another, a moment ago is left alone."""

import os
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, ConnectionError

from cleanup_tasks.reporting.report import Report
from cleanup_tasks.servers import acl
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import KEYS_EACH, STALE_AGE_MS, write_coordinators
from demo.servers import Server, running_server, stop, wait_until
from tests.support.proxy import Proxy

pytestmark = pytest.mark.every_server


def swept(server: Server, **options: Any) -> Report:
    return Sweep(Options(address=parse(options.pop("url", server.url)), **options)).run()


APPEND_ONLY = ("--appendonly", "yes")


@pytest.mark.parametrize(
    "config",
    [(), APPEND_ONLY, (*APPEND_ONLY, "--aof-use-rdb-preamble", "no")],
    ids=["snapshot", "append-only file", "append-only file of commands alone"],
)
def test_one_that_came_up_with_data(server: Server, tmp_path: Path, config: tuple[str, ...]) -> None:
    binary = str(server.process.args[0])  # type: ignore[index]
    first = Server(binary, tmp_path, *config)
    try:
        first.wait()
        with first.client() as client:
            write_coordinators(client, [b"a", b"b"], STALE_AGE_MS)
            # One that started empty is swept at once, though its data is old; what reads a file may have data
            assert bool(swept(first, dry_run=True).skipped) == bool(config)
            assert swept(first, dry_run=True, restart_grace_s=0).keys_deleted == 2 * KEYS_EACH
            if not config:
                client.save()
    finally:
        stop(first.process)
    second = Server(binary, tmp_path, *config)
    try:
        second.wait()
        for dry_run in (True, False):
            report = swept(second, dry_run=dry_run)
            assert "with earlier data, so it is left alone for 60 s" in str(report.skipped)
            assert (report.complete, report.keys_deleted) == (False, 0)
        # Then it is swept once the grace is over, there is none, or somebody says so
        with second.client() as client:
            wait_until(lambda: client.info()["uptime_in_seconds"] >= 1, "the grace is over")
        assert swept(second, dry_run=True, restart_grace_s=1).complete
        assert swept(second, dry_run=True, restart_grace_s=0).complete
        assert swept(second, force=True).keys_deleted == 2 * KEYS_EACH
    finally:
        stop(second.process)


def test_one_that_has_taken_over(server: Server, client: Redis) -> None:
    """The address leads to it now, and it has what the one before had."""
    write_coordinators(client, [b"a"], STALE_AGE_MS)
    client.config_set("repl-diskless-sync-delay", 0)
    binary = str(server.process.args[0])  # type: ignore[index]
    with (
        running_server("--replicaof", "127.0.0.1", str(server.port), binary=binary) as other,
        other.client() as replica,
        Proxy(server.port) as proxy,
    ):
        wait_until(lambda: replica.info()["master_link_status"] == "up", "it is in step")
        # Given that this process has swept the one before, and the other has been up for long
        assert swept(server, url=proxy.url, dry_run=True).complete
        replica.replicaof("NO", "ONE")
        wait_until(lambda: replica.info()["uptime_in_seconds"] >= 2, "it has been up for long enough")
        proxy.turn_to(other.port)
        for _sweep in range(2):
            report = swept(other, url=proxy.url, restart_grace_s=2)
            assert "has taken over from another just now" in str(report.skipped)
        wait_until(lambda: swept(other, url=proxy.url, restart_grace_s=2).complete, "the grace is over")


@pytest.mark.parametrize("knows", ["the start before", "that it loads"])
def test_one_that_loads_for_longer_than_the_grace(server: Server, tmp_path: Path, knows: str) -> None:
    binary = str(server.process.args[0])  # type: ignore[index]
    first = Server(binary, tmp_path)
    try:
        first.wait()
        with first.client() as client:
            write_coordinators(client, [b"a"], STALE_AGE_MS)
            # It answers once in two megabytes that it loads
            client.mset({f"large:{number}": os.urandom(3_000_000) for number in range(10)})
            if knows == "the start before":
                assert swept(first, dry_run=True, restart_grace_s=1).skipped is None
            client.save()
    finally:
        stop(first.process)
    second = Server(binary, tmp_path, "--key-load-delay", "200000", port=first.port)
    try:
        if knows == "that it loads":
            wait_until(lambda: meets_loading(second), "it loads")
        second.wait()
        with second.client() as client:
            wait_until(lambda: not client.info()["loading"], "it has loaded")
            assert client.info()["uptime_in_seconds"] >= 2
        for _sweep in range(2):
            report = swept(second, dry_run=True, restart_grace_s=2)
            assert "with earlier data, so it is left alone for 2 s" in str(report.skipped)
        wait_until(lambda: swept(second, dry_run=True, restart_grace_s=2).complete, "the grace is over")
    finally:
        stop(second.process)


def meets_loading(server: Server) -> bool:
    """Whether a sweep fails since the server loads its data."""
    try:
        swept(server, restart_grace_s=2)
    except BusyLoadingError:
        return True
    except ConnectionError:
        return False
    raise AssertionError("it has loaded too fast")


def test_info_that_is_refused_is_told_once(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    write_coordinators(client, [b"a"], STALE_AGE_MS)
    rules = acl.rules().replace("+info", "").split()
    client.execute_command("ACL", "SETUSER", "cleanup", "reset", "on", ">p", *rules)  # type: ignore[no-untyped-call]
    url = f"redis://cleanup:p@127.0.0.1:{server.port}/0"
    assert swept(server, url=url, dry_run=True).complete
    assert swept(server, url=url).keys_deleted == KEYS_EACH
    assert (
        caplog.text.count("INFO is refused, so a server that came up a moment ago is swept as any other") == 1
    )
    client.acl_deluser("cleanup")
