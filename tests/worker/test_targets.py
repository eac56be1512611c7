"""Three targets in one fleet, one healthy, one down, one a cluster: they are told apart, and none waits."""

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from redis.exceptions import TimeoutError

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import CONNECT_TIMEOUT_S
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.clusters import running_nodes
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.fleet import Fleet, fleet
from demo.servers import Server, free_port, running_server, wait_until
from tests.support.clusters import RunningCluster
from tests.support.clusters import write_coordinators as write_on_cluster
from tests.support.command import reports_where_one_is_down, run_command
from tests.support.scraping import Figures, scrape

#: Seconds between two sweeps of those that can be reached.
INTERVAL_S = 2
STALE = 5
KEYS = 6 * STALE


@dataclass
class Running:
    """The fleet, its healthy target and its cluster."""

    fleet: Fleet
    healthy: Server
    cluster: RunningCluster
    flower_port: int

    def figures(self) -> Figures:
        """What the worker shows to Prometheus."""
        return scrape(self.fleet.metrics_port)

    def count(self, target: str, outcome: str) -> float:
        """How many sweeps of a target by the Lua engine have ended so."""
        labels = f'engine="lua",outcome="{outcome}",target="{target}"'
        return self.figures()[f"cleanup_sweeps_total{{{labels}}}"]

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks that Flower's API knows."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.flower_port}/api/tasks", timeout=10) as answer:
            return list(json.load(answer).values())


@pytest.fixture(scope="module")
def running(broker: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker with one child, beat and Flower; each target has its dead coordinators."""
    folder = tmp_path_factory.mktemp("targets")
    down = free_port()
    with running_server() as healthy, running_nodes() as nodes:
        cluster = RunningCluster(nodes)
        (folder / "cleanup.toml").write_text(
            f"""
            [targets.healthy]
            url = "{healthy.url}/3"
            [targets.down]
            url = "redis://:secret@127.0.0.1:{down}"
            interval_seconds = 3600
            [targets.cluster]
            orphans = "off"
            """
        )
        environment = {
            "COORDINATION_REDIS_URL": "",
            "CLEANUP_CONFIG": str(folder / "cleanup.toml"),
            "COORDINATION_REDIS_URL__CLUSTER": cluster.url,
            "CLEANUP_INTERVAL_SECONDS": str(INTERVAL_S),
            "FLOWER_UNAUTHENTICATED_API": "true",
        }
        with fleet(healthy, broker, folder, environment) as started:
            stack, flower_port = started.stack, free_port()
            stack.start_flower(flower_port)
            stack.start_worker()
            with healthy.client(db=3) as client:
                write_coordinators(client, [b"healthy-%d" % n for n in range(STALE)], STALE_AGE_MS)
                write_coordinators(client, [b"alive"], ACTIVE_AGE_MS)
            write_on_cluster(cluster, [b"cluster-%d" % n for n in range(STALE)])
            write_on_cluster(cluster, [b"alive"], "active")
            stack.start_beat()
            yield Running(started, healthy, cluster, flower_port)


def test_those_that_can_be_reached_are_cleaned(running: Running) -> None:
    # beside when beat's last sweep began, which stays
    with running.healthy.client(db=3) as client:
        wait_until(lambda: len({*client.keys()} - {keys.COOLDOWN}) == 6, "the healthy one is clean", 60)
    wait_until(lambda: len({*running.cluster.keys()} - {keys.COOLDOWN}) == 6, "the cluster is clean", 60)


def test_one_that_is_down_holds_up_no_other(running: Running) -> None:
    """From its first attempt until it is given up 14 s pass, in which the one child sweeps the others."""
    wait_until(lambda: running.count("down", "retried"), "an attempt has failed", 60)
    before = {target: running.count(target, "success") for target in ("healthy", "cluster")}
    wait_until(lambda: running.count("down", "failed"), "it is given up", 120)
    for target, sweeps in before.items():
        assert running.count(target, "success") >= sweeps + 3


def test_the_healthy_one_is_on_time(running: Running) -> None:
    """Also while attempts on the one that is down fail: no two of its sweeps are three intervals apart."""
    wait_until(lambda: running.count("down", "failed"), "the one that is down is given up", 120)
    swept = [
        datetime.fromisoformat(task["date_done"])
        for task in running.fleet.finished()
        if task["kwargs"] == {"target": "healthy"} and task["result"]["complete"]
    ]
    # as many as are due in the 14 s until then, but for the first or the last
    assert len(swept) >= 14 / INTERVAL_S - 1
    assert max(after - before for before, after in pairwise(swept)).total_seconds() < 3 * INTERVAL_S


def test_the_command_tells_them_apart(running: Running) -> None:
    """With the settings of the worker, and at the same time."""
    ended = run_command("", "--all-targets", "--dry-run", "--json", **running.fleet.stack.environment)
    reports_where_one_is_down(ended)
    assert "secret" not in ended.stdout + ended.stderr


def test_prometheus_tells_them_apart(running: Running) -> None:
    def deleted() -> dict[str, float]:
        series = "cleanup_keys_deleted_total{target="
        figures = running.figures().items()
        return {name.split('"')[1]: value for name, value in figures if name.startswith(series)}

    expected = {"healthy": KEYS, "cluster": KEYS, "down": 0}
    wait_until(lambda: deleted() == expected, "the counts are each target's own", 60)
    figures = running.figures()
    assert running.count("down", "success") == 0
    assert figures['cleanup_last_success_timestamp_seconds{target="down"}'] == 0
    assert figures['cleanup_last_success_timestamp_seconds{target="healthy"}'] > 0
    assert not [name for name in figures if "target=" not in name]


def test_flower_tells_them_apart(running: Running) -> None:
    def states() -> set[tuple[str, str]]:
        return {(task["kwargs"], task["state"]) for task in running.tasks()}

    expected = {
        ("{'target': 'healthy'}", "SUCCESS"),
        ("{'target': 'cluster'}", "SUCCESS"),
        ("{'target': 'down'}", "FAILURE"),
    }
    wait_until(lambda: states() >= expected, "Flower has seen all of them", 120)
    succeeded = [task for task in running.tasks() if task["state"] == "SUCCESS"]
    assert all(f"'target': '{json_target(task)}'" in task["result"] for task in succeeded)


def json_target(task: dict[str, Any]) -> str:
    """The target in a task's arguments."""
    return str(task["kwargs"].split("'")[3])


def test_the_log_tells_them_apart(running: Running) -> None:
    def lines() -> list[str]:
        return running.fleet.stack.log("worker").splitlines()

    wait_until(lambda: any("outcome=failed target=down" in line for line in lines()), "it is told", 120)
    assert any("[healthy]   Keys deleted: 30" in line for line in lines())
    assert any("[cluster]   Keys deleted: 30" in line for line in lines())
    assert any("[down] Cleanup is tried again in 2 s" in line for line in lines())


def test_a_server_that_takes_no_connection_costs_two_seconds_an_attempt() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody takes them, so the queue is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        sweep = Sweep(Options(parse(f"redis://127.0.0.1:{full.getsockname()[1]}")))
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            sweep.run()
    assert CONNECT_TIMEOUT_S <= time.monotonic() - began_s < CONNECT_TIMEOUT_S + 1
    assert not sweep.connected


def test_nobody_sees_a_url(running: Running) -> None:
    for process in ("worker", "beat", "flower"):
        assert "secret" not in running.fleet.stack.log(process)
    assert "secret" not in json.dumps(running.tasks())
    assert "redis://" not in json.dumps([(task["args"], task["kwargs"]) for task in running.tasks()])


def test_an_unknown_one_is_refused_in_the_worker_too(running: Running) -> None:
    with pytest.raises(ValueError, match="did you mean healthy"):
        running.fleet.run(target="healthier")
    with pytest.raises(ValueError, match="no target is called 'default'; known are cluster, down, healthy"):
        running.fleet.run()


@pytest.mark.parametrize("target", ["healthy", "cluster"])
@pytest.mark.parametrize("task", ["cleanup", "cleanup_fallback"])
def test_a_task_names_its_target(running: Running, target: str, task: str) -> None:
    metrics = running.fleet.run(task, target=target, dry_run=True)
    assert (metrics["target"], metrics["complete"]) == (target, True)
