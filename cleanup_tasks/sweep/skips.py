"""Since when one sweep after the other is skipped: for too long that is no success.

The first sweep that is skipped notes when that was, in a key of the coordination Redis. The next one that
comes to its end deletes the note, so a Redis that is swept as it should be has none.
"""

import contextlib

from redis.exceptions import RedisError

from cleanup_tasks.reporting.log import utc
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import noted_ms
from cleanup_tasks.servers.topology import Topology

#: For how many intervals sweeps may be skipped without one that comes to its end.
INTERVALS = 3


class AlwaysSkipped(RedisError):
    """This sweep is skipped, as all were for a long time."""


def note_skip(servers: Topology, interval_s: int, reason: str) -> None:
    """Note that one more sweep is skipped.

    Args:
        servers: where it was to sweep.
        interval_s: how often sweeps are due, in seconds.
        reason: why it is skipped.

    Raises:
        AlwaysSkipped: that is no success any more.
    """
    limit_ms = INTERVALS * interval_s * 1000
    since_ms = now_ms = 0
    with contextlib.suppress(RedisError):  # what can't be noted can't be told
        now_ms = servers.now_ms()
        client = servers.client_for(keys.SKIPPED)
        # it expires once sweeps are not skipped any more, and none can delete it
        ttl_ms = limit_ms + interval_s * 1000
        if client.set(keys.SKIPPED, b"%d" % now_ms, nx=True, px=ttl_ms):
            return
        client.pexpire(keys.SKIPPED, ttl_ms)
        since_ms = noted_ms(client, keys.SKIPPED)
    if since_ms and now_ms > since_ms + limit_ms:
        raise AlwaysSkipped(f"no sweep has come to its end since {utc(since_ms)}: {reason}")


def forget_skips(servers: Topology) -> None:
    """Forget those before, for a sweep has come to its end."""
    with contextlib.suppress(RedisError):
        servers.client_for(keys.SKIPPED).unlink(keys.SKIPPED)
