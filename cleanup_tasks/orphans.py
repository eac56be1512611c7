"""Orphaned coordinators: related keys name them, and no heartbeat is left.

A coordinator that is just starting looks the same, so reaping takes two sightings: an id that a sweep
sees is noted with the server's time, and only a later sweep may reap it, once it was first seen more
than the threshold ago. The notes are one hash in the coordination Redis (`keys.SIGHTINGS`).
"""

from collections.abc import Iterable, Mapping, Set

from redis import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError

from cleanup_tasks import keys
from cleanup_tasks.log import logger
from cleanup_tasks.staleness import is_older

#: Ids that are noted at most; the others wait until there is room. About 10 MB of the server's memory.
MAX_NOTES = 100_000
#: Notes that one command reads or writes.
CHUNK = 1_000


class Orphans:
    """Collects from the related keys what nobody with a heartbeat may own."""

    def __init__(self, known: Set[bytes], *, keep_keys: bool) -> None:
        """`known`: ids that have a heartbeat; `keep_keys`: for reaping, not only counting."""
        self._known = known
        self._keep_keys = keep_keys
        self.ids: set[bytes] = set()
        #: Acks and records; signals and activities go without saying.
        self.related: list[bytes] = []

    def add(self, page: Iterable[tuple[bytes, list[bytes]]]) -> None:
        """Take in keys with their possible owners; one that somebody known may own is dropped."""
        known = self._known
        for key, candidates in page:
            if candidates:
                if candidates[0] in known or not known.isdisjoint(candidates):
                    continue
                if self._keep_keys:
                    self.related.append(key)
                self.ids.update(keys.named(key))
            else:
                self.ids.update(id_ for id_ in keys.named(key) if id_ not in known)


class Sightings:
    """When each orphaned coordinator was first seen.

    The notes expire when no sweep renews them, so that turning the feature off leaves nothing behind,
    and what was seen before a long pause does not count.
    """

    def __init__(self, client: Redis, ttl_s: int) -> None:
        """`ttl_s`: seconds for which the notes outlive the last sweep that wrote them."""
        self._client = client
        self._ttl_s = ttl_s

    def ripe(self, orphans: Set[bytes], now_ms: int, threshold_s: int, *, write: bool) -> dict[bytes, int]:
        """The orphans that were first seen more than the threshold ago, with when that was.

        With `write`, those seen for the first time are noted, and those that are orphans no more forgotten.
        """
        noted = self._noted()
        if write:
            fresh = [id_ for id_ in orphans if id_ not in noted]
            self._note(fresh, noted.keys() - orphans, MAX_NOTES - len(noted), now_ms)
        return {
            id_: seen_ms
            for id_, seen_ms in noted.items()
            if id_ in orphans and is_older(seen_ms, now_ms, threshold_s)
        }

    def keep(self, notes: Mapping[bytes, int]) -> None:
        """Note again, as first seen then, those of which a record is left that waits for somebody else."""
        if notes:
            self._write((), notes)

    def forget(self, living: Set[bytes]) -> None:
        """Forget those that have a heartbeat, for a sweep that notes nobody."""
        try:
            if not self._client.exists(keys.SIGHTINGS):
                return
            for chunk in _chunks(self._noted().keys() & living):
                self._client.hdel(keys.SIGHTINGS, *chunk)
        except NoPermissionError:
            return  # who may not read the notes has never written one

    def _noted(self) -> dict[bytes, int]:
        scanned = self._client.hscan_iter(keys.SIGHTINGS, count=CHUNK)
        return {id_: int(seen_ms) for id_, seen_ms in scanned if seen_ms.isdigit()}

    def _note(self, fresh: list[bytes], forgotten: Set[bytes], room: int, now_ms: int) -> None:
        room += len(forgotten)
        if len(fresh) > room:
            logger.warning("%d orphaned coordinators wait to be noted", len(fresh) - room)
        self._write(forgotten, dict.fromkeys(fresh[:room], now_ms))

    def _write(self, forgotten: Iterable[bytes], notes: Mapping[bytes, int]) -> None:
        try:
            for chunk in _chunks(forgotten):
                self._client.hdel(keys.SIGHTINGS, *chunk)
            for chunk in _chunks(notes):
                self._client.hset(keys.SIGHTINGS, mapping={id_: notes[id_] for id_ in chunk})
            self._client.expire(keys.SIGHTINGS, self._ttl_s)
        except (OutOfMemoryError, NoPermissionError) as error:
            logger.warning("Orphans can't be noted, so none is reaped before its time: %s", error)


def _chunks(some: Iterable[bytes]) -> Iterable[list[bytes]]:
    ids = list(some)
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
