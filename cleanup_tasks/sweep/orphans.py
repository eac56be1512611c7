"""Orphans: coordinators that related keys name and that have no heartbeat.

A coordinator that is just starting looks the same, so reaping takes two sightings: the first sighting of an
id is noted with the server's time, and only a later sweep may reap it, once that was more than the threshold
ago. The sightings are one hash in the coordination Redis (`keys.SIGHTINGS`), id -> ms since the epoch.
"""

from collections.abc import Container, Iterable, Set
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import is_older
from cleanup_tasks.servers.pages import next_count
from cleanup_tasks.servers.pipelining import chunks
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.activities import read_activities
from cleanup_tasks.sweep.fleet import Due, Fleet

#: Sightings that are noted at most, about 10 MB of the server's memory; others wait until there is room.
MAX_SIGHTINGS = 100_000
#: Seconds that a sweep which was killed costs at most, with its lock and its retries.
MISSED_SWEEP_S = 600
#: Sightings that one command reads or writes.
CHUNK = 1_000


def bare_orphans(fleet: Fleet, pages: Iterable[list[bytes]]) -> set[bytes]:
    """Orphans that are due, and of which nothing is left that is theirs alone.

    Either no key names them, or each key that does also belongs to somebody who is no orphan that is due.

    Args:
        fleet: everybody who is known.
        pages: all related keys.
    """
    orphans = {due.id for due in fleet.due() if due.is_orphan}
    owners = (keys.owners(key, fleet.coordinators, fleet.lengths)[0] for page in pages for key in page)
    return orphans.difference(id_ for known in owners if orphans.issuperset(known) for id_ in known)


class Sightings:
    """When each orphan was first seen.

    They expire when no sweep renews them, so that turning the feature off leaves nothing behind, and what was
    seen before a long pause does not count.
    """

    def __init__(self, client: Redis, threshold_s: int, interval_s: int) -> None:
        """`client`: of the server that holds them; threshold and interval of the sweeps, in seconds."""
        self._client = client
        self._threshold_s = threshold_s
        self._ttl_s = MISSED_SWEEP_S + 2 * (threshold_s + interval_s)
        self._sighted: dict[bytes, bytes] = {}
        #: Those of them who have a heartbeat, and are sighted no more.
        self._returned: set[bytes] = set()

    def __len__(self) -> int:
        """How many are noted."""
        return len(self._sighted)

    def read(self) -> None:
        """Read all; they are those of before this sweep."""
        if self._client.exists(keys.SIGHTINGS):  # who has never written one may not read them
            cursor, count = 0, CHUNK
            while True:
                cursor, found = self._client.hscan(keys.SIGHTINGS, cursor, count=count)
                page = cast(dict[bytes, bytes], found)
                self._sighted |= {id_: seen_ms for id_, seen_ms in page.items() if seen_ms.isdigit()}
                if not cursor:
                    return
                count = next_count(count, page, CHUNK)

    def returned(self, fleet: Fleet) -> list[Due]:
        """The stale of this generation that had no heartbeat when they were sighted."""
        ids = self._returned | self._sighted.keys()
        return [due for id_ in ids if (due := fleet.coordinators.get(id_)) and not due.is_orphan]

    def add_due(self, fleet: Fleet, servers: Topology, now_ms: int) -> None:
        """Add to the fleet those that were sighted long enough ago and still give no sign of life."""
        ids = [
            id_
            for id_, seen_ms in self._sighted.items()
            if id_ not in fleet.coordinators and is_older(int(seen_ms), now_ms, self._threshold_s)
        ]
        lots = ((None, lot) for lot in chunks(ids, CHUNK))
        for _, read_ms, _working, silent in read_activities(servers, lots, self._threshold_s):
            due = [Due(id_, None, activity, self._sighted[id_]) for id_, activity in silent.items()]
            fleet.add_due(due, read_ms)

    def add_new(self, orphans: Set[bytes], now_ms: int) -> None:
        """Note orphans that are seen for the first time, and forget who is no orphan any more."""
        self.forget(self._sighted.keys() - orphans)
        fresh = [id_ for id_ in orphans if id_ not in self._sighted]
        room = max(0, MAX_SIGHTINGS - len(self._sighted))
        if len(fresh) > room:
            logger.warning("%d orphaned coordinators wait to be noted", len(fresh) - room)
        try:
            for chunk in chunks(fresh[:room], CHUNK):
                sighted = dict.fromkeys(chunk, b"%d" % now_ms)
                self._client.hset(keys.SIGHTINGS, mapping=sighted)  # type: ignore[arg-type]
                self._sighted |= sighted
            self._client.expire(keys.SIGHTINGS, self._ttl_s)
        except (OutOfMemoryError, NoPermissionError) as error:
            logger.warning("Orphans can't be noted, so none is reaped before its time: %s", error)

    def age_s(self, orphan: bytes, now_ms: int) -> int | None:
        """How long ago an orphan was sighted, in seconds; None where it was not."""
        sighted_ms = self._sighted.get(orphan)
        return None if sighted_ms is None else (now_ms - int(sighted_ms)) // 1000

    def not_noted(self, orphans: Set[bytes]) -> int:
        """How many are not noted: a dry run notes none, and no more are noted than there is room for."""
        return len(orphans - self._sighted.keys())

    def seconds_to_wait(self, orphans: Iterable[bytes], now_ms: int) -> list[int]:
        """How long those that were sighted too short a time ago have to wait; the others are left out."""
        sighted_ms = (int(self._sighted[id_]) for id_ in orphans if id_ in self._sighted)
        waited_s = ((now_ms - ms) // 1000 for ms in sighted_ms if not is_older(ms, now_ms, self._threshold_s))
        return [max(0, self._threshold_s - seconds) for seconds in waited_s]

    def forget(self, coordinators: Iterable[bytes]) -> None:
        """Forget some that are no orphans, or were reaped."""
        ids = [id_ for id_ in coordinators if self._sighted.pop(id_, None) is not None]
        for chunk in chunks(ids, CHUNK):
            self._client.hdel(keys.SIGHTINGS, *chunk)

    def forget_known(self, with_heartbeat: Container[bytes]) -> None:
        """Forget all that have a heartbeat, stale or not."""
        self._returned = {id_ for id_ in self._sighted if id_ in with_heartbeat}
        self.forget(self._returned)
