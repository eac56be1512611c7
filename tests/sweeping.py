"""What many tests do: write coordinators, sweep, and see which engine did it."""

import json
from collections.abc import Callable
from typing import Any

from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import Engine, Outcome, Reaping, finish
from cleanup_tasks.report import Report
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep
from demo.dataset import keys_of

THRESHOLD_S = 600


def new_report(engine: str, *, dry_run: bool = False, threshold_s: int = THRESHOLD_S) -> Report:
    """What a sweep with the engine of that name fills in."""
    return Report(implementation=engine, dry_run=dry_run, stale_threshold_seconds=threshold_s)


def interrupted_by(kind: type[BaseException]) -> Callable[[Sweep], None]:
    """A `Sweep.run` that is interrupted where a library puts an error of its own in the interrupt's place."""

    def run(_sweep: Sweep) -> None:
        try:
            raise kind
        finally:
            raise UnboundLocalError  # as a connection of redis-py 6.4 does that is being made

    return run


def sweep(
    client: Redis,
    engine: Engine,
    *,
    dry_run: bool = False,
    threshold_s: int = THRESHOLD_S,
    orphans: str = "off",
) -> Report:
    """Sweep with an engine, and assert by the server's own counters that this engine ran."""
    calls_before = script_calls(client)
    report = new_report(engine.name, dry_run=dry_run, threshold_s=threshold_s)
    Sweep(SingleServer(client), engine, report, orphans=orphans).run()
    ran = script_calls(client) - calls_before
    if engine.name == "python":
        assert ran == 0
    elif report.stale_coordinators_found or report.orphaned_coordinators_reaped:
        assert ran > 0
    return report


def reap(engine: Engine, batch: Batch, *, dry_run: bool) -> Outcome:
    """What an engine makes of one batch; raises what it raises."""
    (answer,) = finish([engine.reap(batch, THRESHOLD_S, dry_run=dry_run)])
    if isinstance(answer, Exception):
        raise answer
    return answer


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


def write_heartbeat(client: Redis, coordinator: bytes, kind: str) -> object:
    """A heartbeat that is ``stale``, ``active`` or ``unreadable``."""
    return client.set(keys.heartbeat(coordinator), heartbeat_values(server_time_ms(client))[kind])


def write_stale(client: Redis, *coordinators: bytes) -> None:
    """Stale coordinators with all six keys."""
    for id_ in coordinators:
        client.mset(dict.fromkeys(keys_of(id_), "1"))
        write_heartbeat(client, id_, "stale")


def digest(client: Redis) -> bytes:
    """A digest of the whole database; any change of any key changes it."""
    answer: bytes = client.execute_command("DEBUG", "DIGEST")  # type: ignore[no-untyped-call]
    return answer


def all_keys(client: Redis) -> set[bytes]:
    """Every key of the (small) test database."""
    return set(client.scan_iter(count=10_000))


class Before:
    """An engine that lets something happen first, once per batch."""

    def __init__(self, engine: Engine, happen: Callable[[int, Batch], object]) -> None:
        self._engine = engine
        self._happen = happen
        self.batches: list[Batch] = []

    @property
    def name(self) -> str:
        return self._engine.name

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        self.batches.append(batch)
        self._happen(len(self.batches), batch)
        return (yield from self._engine.reap(batch, threshold_s, dry_run=dry_run))
