"""After a sweep that beat asked for, what else beat asks for in the same half of an interval is skipped.

Messages pile up while there is no worker, two beats send everything twice, and a beat that starts again and
again sends a message each time: one sweep is enough for all of them. A key in the coordination Redis says so,
by the server's clock. Sweeps that anybody else asks for take no notice of it.
"""

import time

from redis.exceptions import RedisError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.lock import limit_ttl
from cleanup_tasks.servers.topology import Topology


class Cooldown:
    """The time after a sweep of beat's; it counts from the sweep's start."""

    def __init__(self, servers: Topology, interval_s: float) -> None:
        """The sweep starts now; `interval_s` is how often beat asks for one."""
        self._servers = servers
        self._until_s = time.monotonic() + interval_s / 2

    def is_on(self) -> bool:
        """Whether an earlier sweep's has not passed; False where that can't be told."""
        try:
            client = self._servers.client_for(keys.COOLDOWN)
            if not client.exists(keys.COOLDOWN):
                return False
            limit_ttl(client, keys.COOLDOWN, self._left_ms())  # somebody may have taken its end away
            return True
        except RedisError:
            return False  # a server that is lost is found out by the sweep

    def begin(self) -> None:
        """Note that the sweep was done; where that can't be, the next one is done too."""
        left_ms = self._left_ms()
        if left_ms < 1:
            return
        try:
            self._servers.client_for(keys.COOLDOWN).set(keys.COOLDOWN, b"1", px=left_ms)
        except RedisError as error:
            logger.warning("Cooldown can't be written, the next sweep is done in any case: %s", error)

    def _left_ms(self) -> int:
        return int(1000 * (self._until_s - time.monotonic()))
