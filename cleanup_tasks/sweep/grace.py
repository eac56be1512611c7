"""Servers that came up, or took over, a moment ago are left alone: coordinators need time to find them."""

import contextlib
import functools
from collections.abc import Iterator

from redis.exceptions import BusyLoadingError, ResponseError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.servers.restarts import note_loading, reason_to_wait
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.options import Options


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


@functools.cache
def _warn_once(text: str) -> None:
    """Say it in the first sweep of a process alone."""
    logger.warning("%s", text)
