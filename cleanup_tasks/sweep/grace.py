"""Servers that came up, or took over, a moment ago are left alone: coordinators need time to find them."""

import functools

from redis.exceptions import ResponseError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.servers.restarts import reason_to_wait
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
    return next(filter(None, (reason_to_wait(info, grace_s) for info in infos)), None)


@functools.cache
def _warn_once(text: str) -> None:
    """Say it in the first sweep of a process alone."""
    logger.warning("%s", text)
