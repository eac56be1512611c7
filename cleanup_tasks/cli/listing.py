"""The targets that there are: where each is, and whether it answers."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from redis.exceptions import RedisError
from rich.table import Table

from cleanup_tasks.cli.overview import table_of
from cleanup_tasks.cli.sweeping import SIDE_BY_SIDE
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import version_of
from cleanup_tasks.servers.hints import explained
from cleanup_tasks.servers.topology import servers_at


@dataclass(frozen=True, slots=True)
class Found:
    """A target."""

    target: str
    #: The address, without the login.
    redis: str
    #: Name and version of the server, or None where it does not answer, and why.
    server: str | None
    error: str | None = None


def find(targets: Mapping[str, Settings]) -> list[Found]:
    """Connect to each, some of them side by side; nothing is read but the server's version."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(_find, targets, targets.values()))


def _find(target: str, settings: Settings) -> Found:
    redis = str(settings.address)
    try:
        with servers_at(settings.address, settings.tls) as servers, explained(settings.address):
            servers.connect()
            return Found(target, redis, version_of(servers.client_for(keys.LOCK)))
    except RedisError as error:
        return Found(target, redis, None, str(error))
    except Exception as error:  # a credential provider's
        return Found(target, redis, None, repr(error))


def listing(found: list[Found]) -> Table:
    """For people."""
    table = table_of("Target", "Redis", "Server")
    for each in found:
        table.add_row(each.target, each.redis, each.server or f"not reachable: {each.error}")
    return table
