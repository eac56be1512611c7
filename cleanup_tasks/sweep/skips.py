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


class Skips:
    """The sweeps that were skipped since the last one that came to its end, as far as Redis can tell."""

    def __init__(self, servers: Topology, interval_s: int) -> None:
        """`interval_s`: how often sweeps are due, in seconds."""
        self._servers = servers
        self._limit_ms = INTERVALS * interval_s * 1000

    def add(self, reason: str) -> None:
        """Note that one more is skipped for this reason; raises AlwaysSkipped where that is no success."""
        since_ms = now_ms = 0
        with contextlib.suppress(RedisError):  # what can't be noted can't be told
            now_ms = self._servers.now_ms()
            since_ms = self._since_ms(now_ms)
        if since_ms and now_ms > since_ms + self._limit_ms:
            raise AlwaysSkipped(f"no sweep has come to its end since {utc(since_ms)}: {reason}")

    def end(self) -> None:
        """Forget them, for a sweep has come to its end."""
        with contextlib.suppress(RedisError):
            self._servers.client_for(keys.SKIPPED).unlink(keys.SKIPPED)

    def _since_ms(self, now_ms: int) -> int:
        """When the first was skipped, in ms since the epoch; 0 where somebody's own value is there."""
        client = self._servers.client_for(keys.SKIPPED)
        # once sweeps are not skipped any more, and none can delete it
        ttl_ms = self._limit_ms + self._limit_ms // INTERVALS
        if client.set(keys.SKIPPED, b"%d" % now_ms, nx=True, px=ttl_ms):
            return now_ms
        client.pexpire(keys.SKIPPED, ttl_ms)
        return noted_ms(client, keys.SKIPPED)
