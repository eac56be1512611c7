"""What a sweep notes for the next one: one string in the coordination Redis, `keys.HOLD`.

It is there while sweeps are held, and while orphans are sighted.
"""

import msgspec
from redis.exceptions import RedisError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.topology import Topology

#: Machines of which it is noted how far the servers' clock is ahead of theirs.
MAX_MACHINES = 20
#: Seconds that a note lasts at least: sweeps by cron may be a day apart.
TTL_S = 2 * 86_400


class Note(msgspec.Struct):
    """A note, a JSON object with these fields; times are ms since the epoch, by the servers' clock."""

    #: Machine -> how far the servers' clock was ahead of its own, in ms.
    clocks: dict[str, int] = {}
    #: Since when sweeps are held; 0: they are not.
    since_ms: int = 0
    #: Since when somebody beats again; 0: nobody does.
    beating_ms: int = 0
    #: The latest time that one of those who look dead has written.
    latest_ms: float = 0
    #: Id, bytes as Latin-1 -> digests of its heartbeat and activity, of those who wrote last.
    values: dict[str, tuple[str, str]] = {}


class Notes:
    """Reads and writes the note; where that fails, a sweep goes on without, and says so."""

    def __init__(self, servers: Topology, ttl_s: int, *, dry_run: bool) -> None:
        """For these servers; a note lasts `ttl_s` seconds longer than it would, a dry run writes none."""
        self._servers = servers
        self._ttl_s = TTL_S + ttl_s
        self._dry_run = dry_run
        self._is_there = False

    def read(self) -> Note:
        """The note of the sweep before, or an empty one."""
        try:
            found = self._servers.client_for(keys.HOLD).get(keys.HOLD)
            self._is_there = found is not None
            return msgspec.json.decode(found or b"{}", type=Note)
        except msgspec.MsgspecError:
            return Note()  # somebody else's
        except RedisError as error:
            logger.warning("What the last sweep noted can't be read: %s", error)
            return Note()

    def write(self, note: Note) -> None:
        """Keep this note instead of the one before."""
        if self._dry_run:
            return
        note.clocks = dict(list(note.clocks.items())[-MAX_MACHINES:])
        self._is_there = True
        try:
            self._servers.client_for(keys.HOLD).set(keys.HOLD, msgspec.json.encode(note), ex=self._ttl_s)
        except RedisError as error:
            logger.warning("What the next sweep has to know can't be noted: %s", error)

    def delete(self) -> None:
        """Keep none."""
        if self._is_there and not self._dry_run:
            try:
                self._servers.client_for(keys.HOLD).unlink(keys.HOLD)
            except RedisError as error:
                logger.warning("What an earlier sweep noted can't be deleted: %s", error)
