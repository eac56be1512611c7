"""What a sweep notes for the next one: one string in the coordination Redis, `keys.HOLD`.

It is there while sweeps are held, while orphans are sighted, and while somebody who looks dead was seen to
write. The process remembers it too, for where it can't be read or written.
"""

from hashlib import blake2b
from typing import cast

import msgspec
from redis.exceptions import RedisError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.options import Options

#: Machines of which it is noted how far the servers' clock is ahead of theirs.
MAX_MACHINES = 20
#: Seconds that a note lasts at least: sweeps by cron may be a day apart.
TTL_S = 2 * 86_400


def digest(value: bytes) -> bytes:
    """What is noted of a value; empty where there is none."""
    return blake2b(value, digest_size=8).digest() if value else b""


class Trace(msgspec.Struct, array_like=True):
    """What was read of a coordinator that looks dead: digests, empty where there was nothing."""

    heartbeat: bytes
    activity: bytes
    #: When a sweep saw that one of them had been written anew; 0: none has.
    written_ms: int = 0


class Note(msgspec.Struct):
    """All that two sweeps have to tell each other; times are ms since the epoch, by the servers' clock."""

    #: When this was written.
    at_ms: int = 0
    #: Machine -> how far the servers' clock was ahead of the one that runs from that machine's start, in ms.
    clocks: dict[str, int] = {}
    #: The same for the wall clock of the machine that swept last, for machines that have not swept yet.
    wall_ahead_ms: int | None = None
    #: Which start of which server this is, of each primary: INFO's run_id. Empty where it is not known.
    run_ids: list[str] = []
    #: Since when sweeps are held; 0: they are not.
    since_ms: int = 0
    #: Since when somebody beats again in a hold; 0: nobody does.
    beating_ms: int = 0
    #: When a hold ended since nobody had beaten for as long as the threshold; 0 once a sweep has succeeded.
    released_ms: int = 0
    #: Digest of an id -> those who looked dead when the hold began, and those who were seen to write since.
    traces: dict[bytes, Trace] = {}

    def begin_anew(self, now_ms: int) -> None:
        """No time that was noted says any more how long ago that was: all of them are now."""
        self.since_ms = self.since_ms and now_ms
        self.beating_ms = self.released_ms = 0
        for trace in self.traces.values():
            trace.written_ms = trace.written_ms and now_ms


#: Address -> the note that this process has written last, or would have, and whether it is in Redis.
_remembered: dict[str, tuple[bytes, bool]] = {}


class Notes:
    """Reads and writes the note; where that fails, a sweep goes on with what the process remembers."""

    def __init__(self, servers: Topology, options: Options) -> None:
        """For a sweep with these options; a dry run writes and remembers nothing."""
        self._servers = servers
        self._address = str(options.address)
        self._ttl_s = TTL_S + options.threshold_s + options.interval_s
        self._dry_run = options.dry_run
        self._is_there = False

    def read(self) -> Note:
        """The note of the sweep before, or one with what this process remembers of clocks and servers."""
        encoded, is_written = _remembered.get(self._address, (msgspec.msgpack.encode(Note()), True))
        ours = msgspec.msgpack.decode(encoded, type=Note)
        try:
            found = cast(bytes | None, self._servers.client_for(keys.HOLD).get(keys.HOLD))
        except RedisError as error:
            logger.warning("What the last sweep noted can't be read: %s", error)
            return ours
        self._is_there = found is not None
        try:
            note = msgspec.msgpack.decode(found, type=Note) if found else Note()
        except msgspec.MsgspecError:
            note = Note()  # somebody else's
        if not is_written and ours.at_ms > note.at_ms:
            return ours
        note.clocks = ours.clocks | note.clocks
        note.run_ids = note.run_ids or ours.run_ids
        return note

    def write(self, note: Note, now_ms: int) -> None:
        """Keep this note instead of the one before."""
        if self._dry_run:
            return
        note.at_ms = now_ms
        note.clocks = dict(list(note.clocks.items())[-MAX_MACHINES:])
        encoded = msgspec.msgpack.encode(note)
        self._is_there = True
        _remembered[self._address] = encoded, False
        try:
            self._servers.client_for(keys.HOLD).set(keys.HOLD, encoded, ex=self._ttl_s)
        except RedisError as error:
            logger.warning("What the next sweep has to know can't be noted: %s", error)
        else:
            _remembered[self._address] = encoded, True

    def delete(self, note: Note) -> None:
        """Keep none, for nobody needs it; the process remembers what it says of clocks and servers."""
        if self._dry_run:
            return
        facts = Note(clocks=note.clocks, wall_ahead_ms=note.wall_ahead_ms, run_ids=note.run_ids)
        _remembered[self._address] = msgspec.msgpack.encode(facts), True
        if self._is_there:
            try:
                self._servers.client_for(keys.HOLD).unlink(keys.HOLD)
            except RedisError as error:
                logger.warning("What an earlier sweep noted can't be deleted: %s", error)
