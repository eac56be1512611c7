"""After a sweep that beat asked for, what else beat asks for in the same half of an interval is skipped.

Messages pile up while there is no worker, two beats send everything twice, and a beat that starts again and
again sends a message each time: one sweep is enough for all of them. A key in the coordination Redis says
when the last one began, by the server's clock. Sweeps that anybody else asks for take no notice of it.
"""

import contextlib

from redis.exceptions import RedisError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import EARLIEST_MS
from cleanup_tasks.servers.client import noted_ms
from cleanup_tasks.servers.topology import Topology

#: How long it is known when the last sweep of beat's began, in seconds.
KEEP_S = 2 * 86_400


def note_last(servers: Topology, began_ms: int) -> None:
    """Note when a sweep began that was done; where that can't be, the next one is done too."""
    try:
        servers.client_for(keys.COOLDOWN).set(keys.COOLDOWN, b"%d" % began_ms, ex=KEEP_S)
    except RedisError as error:
        logger.warning("Cooldown can't be written, the next sweep is done in any case: %s", error)


def seconds_since_last(servers: Topology, now_ms: int) -> float | None:
    """How long ago the last sweep began that beat asked for and that was complete; None where nobody knows.

    Args:
        servers: where it swept.
        now_ms: the servers' time in ms since the epoch.
    """
    began_ms = 0
    with contextlib.suppress(RedisError):  # a server that is lost is found out by the sweep
        began_ms = noted_ms(servers.client_for(keys.COOLDOWN), keys.COOLDOWN)
    return (now_ms - began_ms) / 1000 if EARLIEST_MS <= began_ms <= now_ms else None
