"""What many tests do: write coordinators, sweep, and see which engine did it."""

import json
from typing import Any

from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import Engine
from cleanup_tasks.report import Report
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep

THRESHOLD_S = 600


def sweep(client: Redis, engine: Engine, *, dry_run: bool = False, threshold_s: int = THRESHOLD_S) -> Report:
    """Sweep with an engine, and assert by the server's own counters that this engine ran."""
    calls_before = script_calls(client)
    report = Report(implementation=engine.name, dry_run=dry_run, stale_threshold_seconds=threshold_s)
    Sweep(SingleServer(client), engine, report).run()
    ran = script_calls(client) - calls_before
    assert (ran > 0) == (engine.name == "lua" and report.stale_coordinators_found > 0)
    return report


def script_calls(client: Redis) -> int:
    """How many EVALSHA calls the server counted."""
    statistics: dict[str, Any] = client.info("commandstats")
    return int(statistics.get("cmdstat_evalsha", {}).get("calls", 0))


def heartbeat_value(client: Redis, age_ms: int) -> str:
    """A heartbeat of that age by the server's clock."""
    return json.dumps({"coordinatorId": "c", "timestamp": server_time_ms(client) - age_ms})


def heartbeat_values(now_ms: int) -> dict[str, str]:
    """A heartbeat of each kind, at a server's time."""
    return {
        "stale": json.dumps({"coordinatorId": "c", "timestamp": now_ms - 700_000}),
        "active": json.dumps({"coordinatorId": "c", "timestamp": now_ms - 1_000}),
        "unreadable": "not json",
    }


def write_heartbeat(client: Redis, coordinator: bytes, kind: str) -> None:
    """A heartbeat that is ``stale``, ``active`` or ``unreadable``."""
    client.set(keys.heartbeat(coordinator), heartbeat_values(server_time_ms(client))[kind])


def all_keys(client: Redis) -> set[bytes]:
    """Every key of the (small) test database."""
    return set(client.scan_iter(count=10_000))
