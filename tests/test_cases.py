"""The tables of cases, on both engines and by hand, against a real server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import Engine
from cleanup_tasks.engines.lua import script_source
from cleanup_tasks.staleness import State, judge, judge_value
from tests.sweeping import THRESHOLD_S, all_keys, reap, sweep, write_heartbeat

CASES = Path(__file__).parent / "cases"
STALENESS: dict[str, Any] = json.loads((CASES / "staleness.json").read_text())
OWNERSHIP: dict[str, Any] = json.loads((CASES / "ownership.json").read_text())


def named(rows: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Rows as parameters, each under its name."""
    return pytest.mark.parametrize("row", rows, ids=[row["name"] for row in rows])


def filled_in(template: str, now_ms: int) -> bytes:
    """The value with each $T(n) replaced by the server's time plus n."""
    return re.sub(r"\$T\(([+-]\d+)\)", lambda match: str(now_ms + int(match[1])), template).encode()


def write_row(client: Redis, row: dict[str, Any]) -> tuple[bytes | None, bytes | None, int]:
    """Write a row's heartbeat and activity; returns both values (None: no string) and the time."""
    now_ms = server_time_ms(client)
    key = keys.heartbeat(b"c")
    beat: bytes | None = None
    if row["name"] == "nested 1,200 deep":
        beat = b"[" * 1200 + b"]" * 1200
    elif row["name"].startswith("a hash"):
        client.hset(key, "field", "value")
    elif row["name"].startswith("a list"):
        client.rpush(key, "element")
    else:
        beat = filled_in(row["heartbeat"], now_ms)
    if beat is not None:
        client.set(key, beat)
    worked = filled_in(row["activity"], now_ms) if "activity" in row else None
    if worked is not None:
        client.set(keys.activity(b"c"), worked)
    return beat, worked, now_ms


@named(STALENESS["values"])
def test_staleness(row: dict[str, Any], client: Redis, engine: Engine) -> None:
    # Given a coordinator with this heartbeat
    beat, worked, now_ms = write_row(client, row)
    before = all_keys(client)
    # When it is judged by the pure rule, then swept
    assert judge(beat, worked, now_ms, THRESHOLD_S).value == row["verdict"]
    report = sweep(client, engine)
    # Then it is counted as what it is, and goes only if it is stale
    counts = {
        "stale": report.stale_coordinators_found,
        "active": report.active_coordinators,
        "unreadable": report.unreadable_heartbeats,
    }
    assert counts == {"stale": 0, "active": 0, "unreadable": 0} | {row["verdict"]: 1}
    assert all_keys(client) == (set() if row["verdict"] == "stale" else before)
    assert report.keys_deleted == len(before) - len(all_keys(client))
    assert report.implementation == engine.name


@named(STALENESS["values"])
def test_staleness_is_the_engines_own_judgement(row: dict[str, Any], client: Redis, engine: Engine) -> None:
    """The sweep's look beforehand is skipped: the engine is told of the coordinator as if it were stale."""
    from cleanup_tasks.batch import Batch

    write_row(client, row)
    before = all_keys(client)
    outcome = reap(engine, Batch(own={b"c": []}), dry_run=False)
    assert outcome.coordinators == [{"stale": 0, "active": -1, "unreadable": -2}[row["verdict"]]]
    assert all_keys(client) == (set() if row["verdict"] == "stale" else before)
    assert outcome.deleted == len(before) - len(all_keys(client))


@pytest.mark.every_server
@named(STALENESS["values"])
def test_staleness_by_hand(row: dict[str, Any], client: Redis) -> None:
    write_row(client, row)
    before = all_keys(client)
    answer = json.loads(client.eval(script_source(), 0, "600", "0"))
    assert answer["staleCoordinatorIds"] == (["c"] if row["verdict"] == "stale" else [])
    assert all_keys(client) == (set() if row["verdict"] == "stale" else before)


@named(STALENESS["boundaries"])
def test_boundaries(row: dict[str, Any]) -> None:
    value = str(row["time_ms"]).encode()
    assert judge_value(value, row["now_ms"], row["threshold_s"]) is State(row["verdict"])


def write_ownership(client: Redis, row: dict[str, Any]) -> tuple[set[bytes], set[bytes]]:
    """Write a row's database; returns all its keys and those that a sweep should take."""
    for coordinator, kind in row["heartbeats"].items():
        write_heartbeat(client, coordinator.encode(), kind)
    for key in row["keys"]:
        client.set(key, "1")
    stale = {keys.heartbeat(id_.encode()) for id_, kind in row["heartbeats"].items() if kind == "stale"}
    return all_keys(client), stale | {key.encode() for key in row["gone"]}


@named(OWNERSHIP["cases"])
def test_ownership(row: dict[str, Any], client: Redis, engine: Engine) -> None:
    before, doomed = write_ownership(client, row)
    # A dry run chooses the same keys and takes none.
    assert sweep(client, engine, dry_run=True).keys_deleted == len(doomed)
    assert all_keys(client) == before
    report = sweep(client, engine)
    assert before - all_keys(client) == doomed
    assert report.keys_deleted == len(doomed)
    assert report.complete
    assert report.implementation == engine.name


@pytest.mark.every_server
@named(OWNERSHIP["cases"])
def test_ownership_by_hand(row: dict[str, Any], client: Redis) -> None:
    before, doomed = write_ownership(client, row)
    script = script_source()
    assert json.loads(client.eval(script, 0, "600", "1"))["keysDeleted"] == len(doomed)
    assert all_keys(client) == before
    assert json.loads(client.eval(script, 0, "600", "0"))["keysDeleted"] == len(doomed)
    assert before - all_keys(client) == doomed
