"""The acceptance data set: coordinators with six keys each, most of them dead."""

import json
from collections.abc import Iterator

from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms

KEYS_EACH = 6
#: Ages of the heartbeats in ms: eleven minutes and one minute.
STALE_AGE_MS = 660_000
ACTIVE_AGE_MS = 60_000
#: Coordinators per round trip.
CHUNK = 500


def keys_of(coordinator: bytes) -> list[bytes]:
    """The six keys of a coordinator: heartbeat, activity, signal, two acks, one idempotency record."""
    return [
        keys.heartbeat(coordinator),
        keys.activity(coordinator),
        keys.signal(coordinator),
        keys.ACK + coordinator + b":signal-1",
        keys.ACK + coordinator + b":signal-2",
        keys.IDEMPOTENCY + coordinator + b":init",
    ]


def values_of(coordinators: list[bytes], then_ms: int) -> Iterator[dict[bytes, str]]:
    """Keys and values of coordinators whose last sign of life was at a time, some hundreds at once."""
    for start in range(0, len(coordinators), CHUNK):
        values: dict[bytes, str] = {}
        for coordinator in coordinators[start : start + CHUNK]:
            heartbeat, activity, signal, *others = keys_of(coordinator)
            name = keys.text(coordinator)
            values[heartbeat] = json.dumps({"coordinatorId": name, "timestamp": then_ms})
            values[activity] = json.dumps({"coordinatorId": name, "lastActivity": then_ms})
            values[signal] = json.dumps({"type": "completion", "receiver": name})
            values |= dict.fromkeys(others, "1")
        yield values


def write_coordinators(client: Redis, coordinators: list[bytes], age_ms: int) -> None:
    """Write the keys of coordinators whose last sign of life is `age_ms` old by the server's clock."""
    for values in values_of(coordinators, server_time_ms(client) - age_ms):
        client.mset(values)


def write_acceptance_data(client: Redis, total: int = 10_000, active: int = 100) -> None:
    """Write `total` coordinators, `active` of them one minute old and the others eleven."""
    write_coordinators(client, [b"test-coordinator-%d" % n for n in range(total - active)], STALE_AGE_MS)
    write_coordinators(client, [b"active-coordinator-%d" % n for n in range(active)], ACTIVE_AGE_MS)
