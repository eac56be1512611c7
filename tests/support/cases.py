"""The tables of cases: a row a heartbeat, or a small database."""

import json
import re
from pathlib import Path
from typing import Any

from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from tests.support.sweeping import heartbeat_values

_FOLDER = Path(__file__).parents[1] / "cases"
STALENESS: list[dict[str, Any]] = json.loads((_FOLDER / "staleness.json").read_text())["values"]
BOUNDARIES: list[dict[str, Any]] = json.loads((_FOLDER / "staleness.json").read_text())["boundaries"]
OWNERSHIP: list[dict[str, Any]] = json.loads((_FOLDER / "ownership.json").read_text())["cases"]

#: Rows whose heartbeat no JSON file can hold.
NESTED = "nested 1,200 deep"
NO_STRINGS = ("a hash instead of a string", "a list instead of a string")


def filled_in(template: str, now_ms: int) -> bytes:
    """A value or a key with each $T(n) replaced by the server's time plus n."""
    return re.sub(r"\$T\(([+-]\d+)\)", lambda match: str(now_ms + int(match[1])), template).encode()


def values_of(row: dict[str, Any], now_ms: int) -> tuple[bytes | None, bytes | None]:
    """Heartbeat and activity of a row of `STALENESS`; None: no string."""
    worked = filled_in(row["activity"], now_ms) if "activity" in row else None
    if row["name"] == NESTED:
        return b"[" * 1200 + b"]" * 1200, worked
    return None if row["name"] in NO_STRINGS else filled_in(row["heartbeat"], now_ms), worked


def write_staleness(client: Redis, row: dict[str, Any], coordinator: bytes, now_ms: int) -> None:
    """Write a coordinator with a row's heartbeat and activity."""
    beat, worked = values_of(row, now_ms)
    if beat is not None:
        client.set(keys.heartbeat(coordinator), beat)
    elif "hash" in row["name"]:
        client.hset(keys.heartbeat(coordinator), "field", "value")
    else:
        client.rpush(keys.heartbeat(coordinator), "element")
    if worked is not None:
        client.set(keys.activity(coordinator), worked)


def ownership_values(row: dict[str, Any], now_ms: int) -> tuple[dict[bytes, bytes], set[bytes]]:
    """The database of a row of `OWNERSHIP`, and the keys that a sweep should take of it."""
    beats = heartbeat_values(now_ms)
    values: dict[bytes, bytes] = {filled_in(key, now_ms): b"1" for key in row["keys"]}
    for id_, kind in row["heartbeats"].items():
        values[keys.heartbeat(id_.encode())] = beats[kind].encode()
    for id_, kind in row.get("activities", {}).items():
        assert kind == "fresh"
        values[keys.activity(id_.encode())] = b"%d" % now_ms
    stale = {keys.heartbeat(id_.encode()) for id_, kind in row["heartbeats"].items() if kind == "stale"}
    return values, stale | {filled_in(key, now_ms) for key in row["gone"]}


def write_ownership(client: Redis, row: dict[str, Any]) -> tuple[set[bytes], set[bytes]]:
    """Write nothing but a row's database; returns all its keys and those that a sweep should take."""
    client.flushall()
    values, gone = ownership_values(row, server_time_ms(client))
    client.mset(values)
    return set(values), gone
