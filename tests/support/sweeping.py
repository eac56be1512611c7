"""What many tests do: write coordinators, sweep, and see which engine did it."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import pytest
from redis import Redis

from cleanup_tasks.engines import python
from cleanup_tasks.engines.batch import Answer, Batch, EngineName
from cleanup_tasks.engines.engine import Engine
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import LOW_LATENCY, Command, Limits, PipelinedConnection
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.servers.url import Address
from cleanup_tasks.sweep import fleet
from cleanup_tasks.sweep.cleaner import Cleaner
from cleanup_tasks.sweep.notes import Note
from cleanup_tasks.sweep.options import Options, Progress, no_progress
from demo.dataset import keys_of

THRESHOLD_S = 600
#: What a sweep that reaps orphans leaves for the next one.
NOTES = {keys.SIGHTINGS, keys.HOLD}
#: What any sweep may leave.
OWN_KEYS = NOTES | {keys.COOLDOWN, keys.SKIPPED}


class NamedEngine(Engine, Protocol):
    """An engine that says how the metrics name it."""

    name: EngineName


def new_report(engine: EngineName, *, dry_run: bool = False, threshold_s: int = THRESHOLD_S) -> Report:
    """What a sweep with the engine of that name fills in."""
    return Report(implementation=engine, dry_run=dry_run, stale_threshold_seconds=threshold_s)


def clean(
    servers: Topology, engine: Engine, report: Report, *, progress: Progress = no_progress, **options: Any
) -> None:
    """The work of a sweep, without lock, log and metrics; `report` says what was done.

    That nobody is alive does not hold it, unless `options` say so.
    """
    given = Options(
        address=Address(),
        dry_run=report.dry_run,
        threshold_s=report.stale_threshold_seconds,
        **{"hold_percent": 0, **options},
    )
    Cleaner(servers, engine, given, report, progress).run()


def sweep(
    client: Redis,
    engine: NamedEngine,
    *,
    dry_run: bool = False,
    threshold_s: int = THRESHOLD_S,
    orphans: str = "off",
    limits: Limits = LOW_LATENCY,
) -> Report:
    """Sweep with an engine, and assert by the server's own counters that this engine ran."""
    calls_before = script_calls(client)
    report = new_report(engine.name, dry_run=dry_run, threshold_s=threshold_s)
    servers = SingleServer(client)
    servers.limits = limits
    clean(servers, engine, report, orphans=orphans)
    ran = script_calls(client) - calls_before
    if engine.name == "python":
        assert ran == 0
    elif report.stale_coordinators_found > report.revived_coordinators or report.orphaned_coordinators_reaped:
        assert ran > 0
    return report


def interrupted_by(kind: type[BaseException]) -> Callable[[Cleaner], None]:
    """A `Cleaner.run` that is interrupted where a library puts an error of its own in its place."""

    def run(_cleaner: Cleaner) -> None:
        try:
            raise kind
        finally:
            raise UnboundLocalError  # as a connection of redis-py 6.4 does that is being made

    return run


def delete(engine: Engine, batch: Batch) -> Answer:
    """What an engine makes of one batch; raises what it raises."""
    try:
        engine.send([batch])
        return engine.receive()[1]
    finally:
        engine.close()


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


def monitored(client: Redis, act: Callable[[], object]) -> list[tuple[str, list[str]]]:
    """What other clients, and their scripts, sent while something was done: from ``tcp`` or ``lua``."""
    commands: list[tuple[str, list[str]]] = []
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        client.ping()
        others = {str(other["addr"]) for other in client.client_list()}
        act()
        client.echo("that is all")
        for entry in monitor.listen():
            words = entry["command"].split(" ")
            if words[0].upper() == "ECHO":
                break
            if f"{entry['client_address']}:{entry['client_port']}" not in others:
                commands.append((entry["client_type"], words))
    return commands


def keys_of_command(words: Sequence[str]) -> Sequence[str]:
    """The keys that a command of ours names."""
    name = words[0].upper()
    if name in ("EXISTS", "UNLINK", "WATCH"):
        return words[1:]
    if name in ("SET", "GET", "GETRANGE", "PTTL", "PEXPIRE", "HGET", "HMGET"):
        return words[1:2]
    if name in ("EVALSHA", "EVAL"):
        return words[3 : 3 + int(words[2])]
    return []


def meddling(monkeypatch: pytest.MonkeyPatch, meddle: Callable[[int], object]) -> list[int]:
    """Let others write after the Python engine has looked at a batch, and before it deletes.

    `meddle` is called with the number of the attempt, from 1; returns the numbers.
    """
    attempts: list[int] = []

    class Connection(PipelinedConnection):
        def send(self, *commands: Command) -> None:
            if commands[0][0] == "UNLINK":
                attempts.append(len(attempts) + 1)
                meddle(attempts[-1])
            super().send(*commands)

    monkeypatch.setattr(python, "PipelinedConnection", Connection)
    return attempts


def noted(client: Redis) -> Note:
    """What a sweep has noted."""
    return msgspec.msgpack.decode(client.get(keys.HOLD) or b"", type=Note)  # type: ignore[arg-type]


def pass_time(client: Redis, seconds: int) -> None:
    """As if what is noted had been noted so much earlier."""
    note = noted(client)
    for name in ("since_ms", "beating_ms", "released_ms"):
        setattr(note, name, getattr(note, name) and getattr(note, name) - seconds * 1000)
    for trace in note.traces.values():
        trace.written_ms = trace.written_ms and trace.written_ms - seconds * 1000
    client.set(keys.HOLD, msgspec.msgpack.encode(note), keepttl=True)


class Before:
    """An engine that lets something happen before each batch is sent."""

    def __init__(self, engine: NamedEngine, happen: Callable[[int, Batch], object]) -> None:
        """`happen` is called with the number of the batch, from 1, and the batch."""
        self._engine = engine
        self._happen = happen
        self.name = engine.name
        self.in_flight = engine.in_flight
        self.batches: list[Batch] = []

    @property
    def pending(self) -> int:
        return self._engine.pending

    def open(self) -> None:
        self._engine.open()

    def send(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self.batches.append(batch)
            self._happen(len(self.batches), batch)
            self._engine.send([batch])

    def receive(self) -> tuple[Batch, Answer]:
        return self._engine.receive()

    def close(self) -> None:
        self._engine.close()


def hold_at_most(monkeypatch: pytest.MonkeyPatch, coordinators: int) -> None:
    """Have a generation hold so many, at most 1,000, by letting each weigh more than it does."""
    each = fleet.MAX_COORDINATOR_BYTES // coordinators - 10_000
    monkeypatch.setattr(fleet, "DUE_BYTES", each)
    monkeypatch.setattr(fleet, "MIN_JUDGED_AGAIN", 1)
