"""The order of a sweep's work: find who is due, collect what is theirs, have it deleted, note orphans."""

import contextlib
from collections.abc import Iterable, Iterator

from redis.exceptions import RedisError, ResponseError

from cleanup_tasks.engines.engine import Engine
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.batcher import Batcher
from cleanup_tasks.sweep.collector import Collector
from cleanup_tasks.sweep.finder import Finder
from cleanup_tasks.sweep.fleet import Due, Fleet
from cleanup_tasks.sweep.holds import Held, Hold
from cleanup_tasks.sweep.options import Options, Progress
from cleanup_tasks.sweep.orphans import Sightings, bare_orphans
from cleanup_tasks.sweep.reaper import Reaper


class Cleaner:
    """Cleans the servers once, and counts in a report. It takes no lock; `Sweep` tells how it ended."""

    def __init__(
        self, servers: Topology, engine: Engine, options: Options, report: Report, progress: Progress
    ) -> None:
        """`progress` is called at every step, see `Options.progress`."""
        self._servers = servers
        self._options = options
        self._report = report
        self._progress = progress
        self._fleet = Fleet()
        self._finder = Finder(servers, report, options.threshold_s, options.max_named)
        self._reaper = Reaper(engine, report, options.max_named)
        self._sightings: Sightings | None = None
        self._hold = Hold(servers, options, report, self._fleet)
        self._failure: RedisError | None = None

    def run(self) -> None:
        """Clean, unless it is held; raises what the client raises. The report says what was done."""
        with contextlib.suppress(Held):
            self._clean()

    def _clean(self) -> None:
        fleet, report = self._fleet, self._report
        self._hold.begin()
        self._finder.find(self._scan(keys.HEARTBEAT_PATTERN, "finding"), fleet)
        self._read_sightings()
        # where a primary was lost, the heartbeat of what looks like an orphan may be out of sight
        all_is_seen = self._failure is None and self._servers.failure is None
        looks_for_orphans = self._options.orphans != "off" and all_is_seen
        self._hold.decide(self._leave_out_bare_orphans)
        orphans = self._clean_generation(orphans=looks_for_orphans)
        if self._sightings is not None and self._options.orphans == "reap":
            self._note(orphans.difference(self._reaper.reaped_orphans), self._sightings)
        while later := fleet.end_generation(self._reaper.kept):
            self._finder.find_again(later, fleet)
            if self._sightings is not None:
                self._hold.protect_returned(self._sightings.returned(fleet))
            self._hold.protect_writers()
            self._clean_generation(orphans=False)
        failure = self._failure or self._servers.failure
        if failure is not None:
            if not (report.cleanup_errors or report.dry_run):
                report.cleanup_errors += 1
            raise failure
        report.complete = not report.cleanup_errors
        # where they can't be read some may be there
        self._hold.end(has_sightings=self._sightings is None or len(self._sightings) > 0)

    def _note(self, orphans: set[bytes], sightings: Sightings) -> None:
        now_ms = self._now_ms()
        if self._servers.failure is None and not self._options.dry_run:
            sightings.add_new(orphans, now_ms)
        waiting = sightings.seconds_to_wait(orphans, now_ms)
        self._report.orphaned_coordinators_waiting = len(waiting)
        self._report.next_orphan_due_seconds = min(waiting, default=None)
        self._report.orphans_not_noted = sightings.not_noted(orphans)

    def _clean_generation(self, *, orphans: bool) -> set[bytes]:
        """Collect and have deleted what belongs to those that are due; returns the orphans met on the way."""
        fleet = self._fleet
        if not orphans and not fleet.due():
            return set()
        collector = Collector(fleet, self._servers, self._now_ms(), self._options.threshold_s)
        collector.collect(self._scan(keys.RELATED_PATTERN, "collecting"))
        self._hold.check_clock()
        if orphans and self._servers.failure is None:
            self._report.orphaned_coordinators_found += len(collector.orphans)
        self._reap([one for one in fleet.due() if not one.is_orphan], collector)
        if orphans and self._servers.failure is None:
            before = self._report.keys_deleted
            try:
                self._reap(collector.orphans_to_reap(), collector)
            finally:
                self._report.orphan_keys_deleted += self._report.keys_deleted - before
        return collector.orphans if orphans else set()

    def _reap(self, coordinators: list[Due], collector: Collector) -> None:
        done, total = 0, len(coordinators)

        def count(number: int) -> None:
            nonlocal done
            done += number
            self._progress("reaping", done, total)

        joins = True
        while coordinators:
            batcher = Batcher(
                self._fleet,
                collector.absent,
                self._servers.limits.batch_keys,
                dry_run=self._options.dry_run,
                keep_heartbeats=self._servers.failure is not None,
                blocked=self._reaper.blocked,
                joins=joins,
            )
            self._reaper.reap(batcher.batches(coordinators), count, self._forget)
            coordinators, self._reaper.to_split = self._reaper.to_split, []
            joins = False

    def _read_sightings(self) -> None:
        """Read the sightings, if they can be read; orphans that are due are added to the fleet."""
        options, fleet, hold = self._options, self._fleet, self._hold
        reaps = options.orphans == "reap"
        sightings = Sightings(
            self._servers.client_for(keys.SIGHTINGS), options.threshold_s, options.interval_s
        )
        try:
            if not hold.are_sightings_void:
                sightings.read()
                hold.protect_returned(sightings.returned(fleet))
            if not options.dry_run:
                sightings.forget_known(fleet.coordinators)
            if reaps and self._servers.failure is None:
                sightings.add_due(fleet, self._servers, self._now_ms())
            self._sightings = sightings
        except RedisError as error:
            # where they are only out of reach for a moment, what stale ones share with orphans would be left
            if not isinstance(error, ResponseError) and self._servers.failure is None:
                raise
            # the stale are cleaned all the same; of a cluster this may be the one primary that is lost
            logger.warning("The sightings of orphans can't be read or written: %s", error)
            if reaps:
                self._failure = error

    def _leave_out_bare_orphans(self) -> None:
        """Take those orphans off the due of which no key is left, and forget their sightings."""
        bare = bare_orphans(self._fleet, self._scan(keys.RELATED_PATTERN, "finding"))
        if self._servers.failure is None:
            self._fleet.leave_out(bare)
            self._forget(bare)

    def _forget(self, reaped: Iterable[bytes]) -> None:
        """Forget the sightings of orphans: whoever starts anew has to be sighted anew, too."""
        if self._sightings is not None and not self._options.dry_run:
            self._sightings.forget(reaped)

    def _now_ms(self) -> int:
        return self._servers.now_ms()

    def _scan(self, pattern: bytes, what: str) -> Iterator[list[bytes]]:
        """The keys that match, page by page, to the end; a key may come twice."""
        total = self._servers.size() if self._options.wants_total else 0
        seen = 0
        for page in self._servers.scan(pattern):
            # the server has looked at about so many keys, and answered with those that match
            seen += self._servers.limits.scan_count
            self._progress(what, min(seen, total), total)
            yield page
