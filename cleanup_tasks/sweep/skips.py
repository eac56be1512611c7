"""Sweeps that are skipped: why, and since when. Where that goes on for too long it is no success.

Servers that came up, or took over, a moment ago are left alone: coordinators need time to find them.

The first sweep that is skipped notes when that was, in a key of the coordination Redis. The next one that
comes to its end deletes the note, so a Redis that is swept as it should be has none.
"""

import contextlib
import functools
from collections.abc import Iterator

from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from cleanup_tasks.reporting.log import logger, utc
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import noted_ms
from cleanup_tasks.servers.restarts import note_loading, reason_to_wait
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.options import Options

#: For how many intervals sweeps may be skipped without one that comes to its end.
INTERVALS = 3


class AlwaysSkipped(RedisError):
    """This sweep is skipped, as all were for a long time."""


def reason_to_skip(servers: Topology, options: Options) -> str | None:
    """Why these servers are not to be swept now with these options, or None."""
    grace_s = options.restart_grace_s
    if options.force or not grace_s:
        return None
    try:
        infos = servers.infos()
    except ResponseError as error:
        _warn_once(f"INFO is refused, so a server that came up a moment ago is swept as any other: {error}")
        return None
    return reason_to_wait(str(options.address), infos, grace_s)


@contextlib.contextmanager
def noting_that_it_loads(options: Options) -> Iterator[None]:
    """Note that a server has not been there for long, where it says so in this block."""
    try:
        yield
    except BusyLoadingError:
        note_loading(str(options.address))
        raise


def note_skip(servers: Topology, interval_s: int, reason: str) -> None:
    """Note that one more is skipped for this reason; raises AlwaysSkipped where that is no success.

    `interval_s`: how often sweeps are due, in seconds.
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


@functools.cache
def _warn_once(text: str) -> None:
    """Say it in the first sweep of a process alone."""
    logger.warning("%s", text)
