"""The targets that there are: where each is, and whether it answers."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from redis.exceptions import RedisError
from rich.table import Table

from cleanup_tasks.cli.overview import table_of
from cleanup_tasks.cli.sweeping import SIDE_BY_SIDE
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.reporting.durations import in_words
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import version_of
from cleanup_tasks.servers.hints import with_hint
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.sweep.cooldown import seconds_since_last


@dataclass(frozen=True, slots=True)
class Found:
    """A target."""

    target: str
    #: The address, without the login.
    redis: str
    #: Name and version of the server, or None where it does not answer, and why.
    server: str | None
    #: How many seconds ago the last complete sweep of beat's began; None where the server doesn't know.
    last_sweep_s: float | None = None
    error: str | None = None

    def as_json(self) -> dict[str, str | int | None]:
        """For programs."""
        seconds = None if self.last_sweep_s is None else int(self.last_sweep_s)
        return {
            "target": self.target,
            "redis": self.redis,
            "server": self.server,
            "lastSweepSeconds": seconds,
            "error": self.error,
        }


def find(targets: Mapping[str, Settings]) -> list[Found]:
    """Connect to each, some of them side by side; nothing is read but its version and a note of ours."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(_find, targets, targets.values()))


def _find(target: str, settings: Settings) -> Found:
    redis = str(settings.address)
    try:
        with servers_at(settings.address, settings.tls) as servers, with_hint(settings.address):
            servers.connect()
            last_sweep_s = seconds_since_last(servers, servers.now_ms())
            return Found(target, redis, version_of(servers.client_for(keys.LOCK)), last_sweep_s)
    except Exception as error:  # also a credential provider's
        why = str(error) if isinstance(error, RedisError) else repr(error)
        return Found(target, redis, None, error=why)


def listing(found: list[Found]) -> Table:
    """For people."""
    table = table_of("Target", "Redis", "Server", "Beat's last sweep")
    for each in found:
        last_sweep = "unknown" if each.last_sweep_s is None else f"{in_words(each.last_sweep_s, 1)} ago"
        table.add_row(each.target, each.redis, each.server or f"not reachable: {each.error}", last_sweep)
    return table
