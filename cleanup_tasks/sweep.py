"""One sweep: find the stale, collect their keys, have them judged and reaped, report."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace

from redis.exceptions import RedisError

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.collector import Collector
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import Engine
from cleanup_tasks.finder import Finder, Generation
from cleanup_tasks.log import logger
from cleanup_tasks.orphans import Orphans, Sightings
from cleanup_tasks.reaper import Reaper
from cleanup_tasks.report import Report
from cleanup_tasks.topology import Topology

#: Whether this program collects cyclic garbage at all.
COLLECTS = gc.isenabled()

#: Called with what is being done, how much of it is done, and how much there is (0: not known).
Progress = Callable[[str, int, int], None]


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


class Sweep:
    """Finds by scanning, and deletes nothing itself: what was read here is old by then."""

    def __init__(
        self,
        servers: Topology,
        engine: Engine,
        report: Report,
        progress: Progress = no_progress,
        max_named: int | None = None,
        orphans: str = "off",
        interval_s: int = 300,
    ) -> None:
        """Fill in `report`, whose threshold and dry run are those of the sweep.

        `progress` is called at every step; `max_named` is how many unreadable heartbeats the log names;
        `orphans` is ``off``, ``report`` or ``reap``, and `interval_s` how often sweeps are due, in seconds.
        """
        self._servers = servers
        self._orphans = orphans
        self._interval_s = interval_s
        self._report = report
        self._progress = progress
        self._finder = Finder(servers, report, max_named)
        self._reaper = Reaper(engine, report, max_named, servers.pace.batches)

    def run(self) -> None:
        """Sweep once. Raises what the client raises; the report then says what was done up to there."""
        with _without_collections():
            self._run()

    def _run(self) -> None:
        orphans = None
        for generation in self._finder.generations(self._scan(keys.HEARTBEAT_PATTERN, "scanning")):
            if self._finder.done:  # now we know who has a heartbeat
                orphans = self._look_for_orphans()
            self._reap(generation, orphans)
            del generation  # ahead of the next one
        if orphans is not None and self._servers.failure is None:  # else heartbeats may be out of sight
            self._report.orphaned_coordinators_found = len(orphans.ids)
            if self._orphans == "reap":
                self._reap_orphans(orphans)
        if self._servers.failure is not None:
            if not (self._report.cleanup_errors or self._report.dry_run):
                self._report.cleanup_errors += 1
            raise self._servers.failure
        self._report.complete = not self._report.cleanup_errors

    def _look_for_orphans(self) -> Orphans | None:
        if self._orphans != "reap" and not self._report.dry_run:
            try:
                self._sightings().forget(self._finder.known)
            except RedisError as error:  # of a cluster this may be the one primary that is lost
                logger.warning("Orphans that live again can't be forgotten: %s", error)
        if self._orphans == "off":
            return None
        return Orphans(self._finder.known, keep_keys=self._orphans == "reap")

    def _reap(self, generation: Generation, orphans: Orphans | None) -> None:
        """Collect the related keys of a generation, and have them reaped; look for orphans on the way."""
        stale = generation.stale
        patterns = keys.ORPHAN_PATTERNS if orphans is not None else (keys.RELATED_PATTERN,) if stale else ()
        collector = Collector(
            stale,
            self._finder.kept,
            self._servers.pace.batch_keys,
            long_values=generation.long_values,
            snapshot=generation.snapshot,
            gone=self._reaper.gone,
        )
        for pattern in patterns:
            for page in self._scan(pattern, "collecting"):
                owned = [(key, keys.possible_owners(key)) for key in page]
                if stale:
                    collector.add(owned)
                if orphans is not None:
                    orphans.add(owned)
        self._reap_all(collector, len(stale))

    def _reap_orphans(self, orphans: Orphans) -> None:
        report = self._report
        threshold_s = report.stale_threshold_seconds
        now_ms = server_time_ms(self._servers.client_for(keys.SIGHTINGS))
        ripe = self._sightings().ripe(orphans.ids, now_ms, threshold_s, write=not report.dry_run)
        # Whoever is not ripe may be alive, and keeps what it shares with those who are.
        others = orphans.ids - ripe.keys()
        collector = Collector(ripe, others, self._servers.pace.batch_keys, orphaned=True)
        collector.add((key, keys.possible_owners(key)) for key in orphans.related)
        self._reaper.held = collector.held
        self._reap_all(collector, len(ripe))
        if not report.dry_run:
            self._sightings().keep({id_: ripe[id_] for id_ in collector.held})

    def _sightings(self) -> Sightings:
        client = self._servers.client_for(keys.SIGHTINGS)
        return Sightings(client, ttl_s=2 * (self._report.stale_threshold_seconds + self._interval_s))

    def _reap_all(self, collector: Collector, total: int) -> None:
        done = 0

        def landed(batch: Batch) -> None:
            nonlocal done
            done += 0 if batch.partial else len(batch.own)
            self._progress("reaping", done, total)

        batches = collector.batches()
        if self._servers.failure is not None:
            # not all could be seen: heartbeats stay, to find again what was missed
            batches = (replace(batch, partial=True) for batch in batches)
        self._reaper.reap(batches, landed)

    def _scan(self, pattern: bytes, what: str) -> Iterator[list[bytes]]:
        """The keys that match, page by page, to the end; a key may come twice."""
        seen = 0
        for page in self._servers.scan(pattern):
            seen += len(page)
            self._progress(what, seen, 0)
            yield page


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Python's search for cyclic garbage takes a sixth of a large sweep, and finds none."""
    try:
        gc.disable()
        yield
    finally:
        if COLLECTS:
            gc.enable()
