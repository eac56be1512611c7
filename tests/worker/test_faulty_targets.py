"""Targets of a host's worker that are wrong, unknown or silent: told, counted, and in nobody's way."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from cleanup_tasks.rules import keys
from cleanup_tasks.schedule import INTERVAL_HEADER
from demo.servers import Server, free_port, running_server, wait_until
from demo.stack import Stack
from tests.support.scraping import scrape

CLEANUP = "cleanup_tasks.cleanup"
#: The application, where an answer counts as lost so soon that a test can wait for it again and again.
HASTY = """
from cleanup_tasks.servers import client
from tests.support.foreign import app

client.TIMEOUT_S = 1.0
"""
INTERVAL_S = 3600
FROM_BEAT = {INTERVAL_HEADER: INTERVAL_S}


@dataclass
class Host:
    """A worker with one process, and a caller who knows nothing of the targets."""

    stack: Stack
    caller: Celery
    metrics_port: int

    def send(self, target: str, headers: dict[str, Any] | None = None) -> Any:
        """Have it clean a target; returns what comes of it."""
        sent = self.caller.send_task(CLEANUP, kwargs={"target": target}, queue="maintenance", headers=headers)
        return sent.get(timeout=120)

    def fails(self, target: str, message: str, headers: dict[str, Any] | None = None) -> None:
        """Have it clean a target, which fails."""
        with pytest.raises(Exception, match=message):
            self.send(target, headers)

    def count(self, target: str) -> dict[str, float]:
        """How its attempts have ended."""
        labels = f'{{engine="lua",outcome="%s",target="{target}"}}'
        figures = scrape(self.metrics_port)
        outcomes = ("success", "failed", "retried")
        return {name: figures[f"cleanup_sweeps_total{labels % name}"] for name in outcomes}


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """It takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def host(broker: Server, server: Server, silent: socket.socket, tmp_path: Path) -> Iterator[Host]:
    """A worker whose host shows warnings only."""
    with broker.client() as client:
        client.flushall()
    (tmp_path / "hasty.py").write_text(HASTY)
    (tmp_path / "ends.py").write_text("import sys; sys.exit('no token')")
    port = free_port()
    environment = {
        "SHOP_BROKER": f"{broker.url}/1",
        "SHOP_RESULTS": f"{broker.url}/2",
        "COORDINATION_REDIS_URL__GOOD": f"{server.url}/0",
        "COORDINATION_REDIS_URL_FILE__BAD": "/nowhere/at/all",
        "COORDINATION_REDIS_URL__ENDS": f"{server.url}/0",
        "COORDINATION_REDIS_CREDENTIAL_PROVIDER__ENDS": "ends:Provider",
        "COORDINATION_REDIS_URL__SILENT": f"redis://127.0.0.1:{silent.getsockname()[1]}",
        "CLEANUP_ORPHANS": "reap",
        "CLEANUP_RESTART_GRACE_SECONDS": "0",
        "CLEANUP_METRICS_PORT": str(port),
        "CLEANUP_LOG_FILE": "",
        "PYTHONPATH": str(tmp_path),
    }
    urls = {"broker": environment["SHOP_BROKER"], "backend": environment["SHOP_RESULTS"]}
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(Stack(environment, tmp_path, app="hasty"))
        caller = stack.enter_context(Celery("caller", **urls, set_as_current=False))
        options = ("--queues", "shop,maintenance", "--pool", "solo", "--loglevel", "WARNING")
        fleet.start("worker", "worker", *options)
        yield Host(fleet, caller, port)


def test_a_fault_of_one_target_is_told_and_counted(host: Host, server: Server) -> None:
    host.fails("bad", "^invalid settings: COORDINATION_REDIS_URL_FILE__BAD: ", FROM_BEAT)
    host.fails("ends", r"CREDENTIAL_PROVIDER__ENDS: .*SystemExit\('no token'\)", FROM_BEAT)
    host.fails("gone", "no target is called 'gone'", FROM_BEAT)
    host.fails("redis://:hidden@h", "a target's name has")
    assert host.send("good")["complete"]
    assert host.count("bad") == host.count("ends") == {"success": 0, "failed": 1, "retried": 0}
    assert host.count("good") == {"success": 1, "failed": 0, "retried": 0}
    assert scrape(host.metrics_port)['cleanup_interval_seconds{target="bad"}'] == INTERVAL_S
    log = host.stack.log("worker")
    told = [line for line in log.splitlines() if "Cleanup failed: " in line and "ERROR" in line]
    expected = (
        "[bad] Cleanup failed: invalid settings: COORDINATION_REDIS_URL_FILE__BAD: ",
        "[ends] Cleanup failed: invalid settings: COORDINATION_REDIS_CREDENTIAL_PROVIDER__ENDS: ",
        "Cleanup failed: invalid arguments: target: the name of a configured target (no target is called 'g",
        "Cleanup failed: invalid arguments: target: the name of a configured target (a target's name has",
    )
    assert len(told) == len(expected)
    assert all(text in line for text, line in zip(expected, told, strict=True))
    # at its start, all at once
    (start,) = [line for line in log.splitlines() if "Cleanups will fail: " in line]
    assert "URL_FILE__BAD: " in start
    assert "PROVIDER__ENDS: " in start
    assert "hidden" not in log
    assert "Traceback" not in log


def test_beats_interval_is_the_one_that_counts(host: Host, server: Server) -> None:
    with server.client() as client:
        client.set(b"coordinator:activity:ghost", 1)
        interval = 'cleanup_interval_seconds{target="good"}'
        host.send("good")
        assert scrape(host.metrics_port)[interval] == 300
        assert client.ttl(keys.SIGHTINGS) <= 600 + 2 * (600 + 300)
        host.send("good", FROM_BEAT)
        assert scrape(host.metrics_port)[interval] == INTERVAL_S
        assert 600 + 2 * (600 + INTERVAL_S) >= client.ttl(keys.SIGHTINGS) > 2 * INTERVAL_S


def test_a_silent_target_gets_one_attempt_for_each_of_beats_messages(
    host: Host, silent: socket.socket
) -> None:
    """Every attempt waits for an answer, and other targets wait for the process meanwhile."""
    first, *others = (
        host.caller.send_task(
            CLEANUP, kwargs={"target": "silent"}, queue="maintenance", headers=dict(FROM_BEAT)
        )
        for _ in range(3)
    )
    for sent in (*others, first):
        with pytest.raises(Exception, match="Timeout"):
            sent.get(timeout=120)
    assert host.count("silent") == {"success": 0, "failed": 3, "retried": 3}
    # a person who asks is worth the wait
    host.caller.send_task(CLEANUP, kwargs={"target": "silent"}, queue="maintenance")
    wait_until(lambda: host.count("silent")["retried"] == 4, "it is tried again")
    # and once it has answered, it is tried again as ever
    silent.close()
    with running_server(port=silent_port(host)):
        assert host.send("silent", FROM_BEAT)["complete"]
    wait_until(lambda: host.count("silent")["success"] >= 1, "it is counted")
    before = host.count("silent")["retried"]
    host.caller.send_task(CLEANUP, kwargs={"target": "silent"}, queue="maintenance", headers=FROM_BEAT)
    wait_until(lambda: host.count("silent")["retried"] > before, "it is tried again")


def silent_port(host: Host) -> int:
    """The port of the one that was silent."""
    return int(host.stack.environment["COORDINATION_REDIS_URL__SILENT"].rpartition(":")[2])
