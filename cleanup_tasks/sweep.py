"""One sweep: find the stale, collect their keys, let the engine judge and reap, report."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from redis.exceptions import RedisError

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch, Collector
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import FAILED, GONE, Engine, Outcome
from cleanup_tasks.failures import may_have_happened
from cleanup_tasks.log import logger
from cleanup_tasks.orphans import Orphans, Sightings
from cleanup_tasks.report import Report
from cleanup_tasks.staleness import State, judge_value, time_of
from cleanup_tasks.topology import Topology

#: Heartbeats that are read at once.
READ_KEYS = 1_000
#: How often a batch is judged anew when heartbeats change under the Python engine: whole, then halved
#: as far as it goes, then left alone.
ATTEMPTS = 5

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
        self._engine = engine
        self._report = report
        self._progress = progress
        self._max_named = max_named
        #: id -> bytes of its two values, which the engine reads once more.
        self._stale: dict[bytes, int] = {}
        self._kept: set[bytes] = set()
        self._revived: set[bytes] = set()
        #: Of which a part was given up: what else they have may go, their heartbeats stay.
        self._given_up: set[bytes] = set()
        self._named = 0
        #: Orphans that keep a record, and so are not yet done with.
        self._held: set[bytes] = set()

    def run(self) -> None:
        """Sweep once. Raises what the client raises; the report then says what was done up to there."""
        self._find()
        self._report.stale_coordinator_ids = list(self._stale)
        known = self._kept | self._stale.keys()
        if self._orphans != "reap" and not self._report.dry_run:
            try:
                self._sightings().forget(known)
            except RedisError as error:  # of a cluster this may be the one primary that is lost
                logger.warning("Orphans that live again can't be forgotten: %s", error)
        looking = self._orphans != "off"
        patterns = keys.ORPHAN_PATTERNS if looking else (keys.RELATED_PATTERN,) if self._stale else ()
        collector = Collector(self._stale, self._kept, value_bytes=self._stale)
        orphans = Orphans(known, keep_keys=self._orphans == "reap")
        for pattern in patterns:
            for page in self._scan(pattern, "collecting"):
                owned = [(key, keys.possible_owners(key)) for key in page]
                if self._stale:
                    collector.add(owned)
                if looking:
                    orphans.add(owned)
        self._reap_all(collector, len(self._stale))
        if self._servers.failure is None:  # else a heartbeat may only be out of sight
            self._report.orphaned_coordinators_found = len(orphans.ids)
            if self._orphans == "reap":
                self._reap_orphans(orphans)
        if self._servers.failure is not None:
            if not (self._report.cleanup_errors or self._report.dry_run):
                self._report.cleanup_errors += 1
            raise self._servers.failure
        self._report.complete = not self._report.cleanup_errors

    def _reap_orphans(self, orphans: Orphans) -> None:
        report = self._report
        threshold_s = report.stale_threshold_seconds
        now_ms = server_time_ms(self._servers.client_for(keys.SIGHTINGS))
        ripe = self._sightings().ripe(orphans.ids, now_ms, threshold_s, write=not report.dry_run)
        # Whoever is not ripe may be alive, and keeps what it shares with those who are.
        collector = Collector(ripe, orphans.ids - ripe.keys(), orphaned=True)
        collector.add((key, keys.possible_owners(key)) for key in orphans.related)
        self._held = collector.held
        self._reap_all(collector, len(ripe))
        if not report.dry_run:
            self._sightings().keep({id_: ripe[id_] for id_ in collector.held})

    def _sightings(self) -> Sightings:
        client = self._servers.client_for(keys.SIGHTINGS)
        return Sightings(client, ttl_s=2 * (self._report.stale_threshold_seconds + self._interval_s))

    def _reap_all(self, collector: Collector, total: int) -> None:
        # Where not all could be seen heartbeats stay, to find again what was missed.
        unsure = self._servers.failure is not None
        done = 0
        for batch in collector.batches():
            if not batch.partial and not self._given_up.isdisjoint(batch.own):
                batch = batch.of(batch.own.keys() - self._given_up)
            if batch.own:
                self._settle(replace(batch, partial=True) if unsure else batch)
            done += 0 if batch.partial else len(batch.own)
            self._progress("reaping", done, total)

    def _scan(self, pattern: bytes, what: str) -> Iterator[list[bytes]]:
        """The keys that match, page by page, to the end; a key may come twice."""
        seen = 0
        for page in self._servers.scan(pattern):
            seen += len(page)
            self._progress(what, seen, 0)
            yield page

    def _find(self) -> None:
        """Sort every coordinator with a heartbeat to the stale or to the kept."""
        waiting: dict[bytes, None] = {}
        for page in self._scan(keys.HEARTBEAT_PATTERN, "scanning"):
            found = map(keys.coordinator_of, page)
            waiting |= dict.fromkeys(id_ for id_ in found if id_ not in self._stale and id_ not in self._kept)
            if len(waiting) >= READ_KEYS:
                self._classify(list(waiting))
                waiting.clear()
        self._classify(list(waiting))

    def _classify(self, coordinators: list[bytes]) -> None:
        if not coordinators:
            return
        threshold_s = self._report.stale_threshold_seconds
        now_ms, values = self._servers.read(map(keys.heartbeat, coordinators))
        beats = {keys.coordinator_of(name): beat for name, beat in values.items()}
        states = {id_: judge_value(beat, now_ms, threshold_s) for id_, beat in beats.items()}
        # Only the silent are asked for their activity: usually nobody.
        silent = [id_ for id_, state in states.items() if state is State.STALE]
        _, activities = self._servers.read(map(keys.activity, silent))
        for id_ in silent:
            if keys.activity(id_) not in activities:
                del states[id_]  # neither stale nor not, as far as we can see
            elif judge_value(activities[keys.activity(id_)], now_ms, threshold_s) is State.ACTIVE:
                states[id_] = State.ACTIVE
        there = self._servers.existing(keys.heartbeat(id_) for id_, beat in beats.items() if beat is None)
        by_state: dict[State, list[bytes]] = {state: [] for state in State}
        for id_, state in states.items():
            if beats[id_] is None and not there.get(keys.heartbeat(id_)):
                continue  # expired since the scan saw it
            by_state[state].append(id_)
        for id_ in by_state[State.STALE]:
            self._stale[id_] = sum(
                len(value or b"") for value in (beats[id_], activities[keys.activity(id_)])
            )
        self._count(by_state)
        if logger.isEnabledFor(logging.DEBUG):
            for id_ in by_state[State.ACTIVE]:
                logger.debug("Coordinator active: %s", keys.text(id_))
            for id_ in by_state[State.STALE]:
                age_s = now_ms // 1000 - int(time_of(beats[id_], now_ms) or 0) // 1000
                logger.debug("Stale coordinator detected: %s (age: %ds)", keys.text(id_), age_s)

    def _count(self, by_state: dict[State, list[bytes]]) -> None:
        report = self._report
        active, stale, unreadable = by_state[State.ACTIVE], by_state[State.STALE], by_state[State.UNREADABLE]
        self._kept.update(active, unreadable)
        report.total_coordinators_checked += len(active) + len(stale) + len(unreadable)
        report.active_coordinators += len(active)
        report.stale_coordinators_found += len(stale)
        for id_ in unreadable:
            if self._max_named is None or report.unreadable_heartbeats < self._max_named:
                logger.warning("Invalid or missing heartbeat: %s", keys.text(id_))
            report.unreadable_heartbeats += 1

    def _settle(self, batch: Batch) -> None:
        """Have a batch reaped, anew without the newcomers' keys or in halves where need be."""
        pending = [(batch, 1)]
        while pending:
            batch, attempt = pending.pop()
            outcome = self._reap(batch)
            if outcome.newcomers:
                pending.append((batch.without(outcome.newcomers), attempt))
            elif outcome.contended:
                halves = batch.halves() if attempt > 1 else None
                if halves:
                    pending += [(half, 1) for half in halves]
                elif attempt < ATTEMPTS:
                    pending.append((batch, attempt + 1))
                else:
                    self._report.cleanup_errors += 1
                    self._given_up.update(batch.own)
                    for id_ in batch.own:
                        logger.warning("Kept, its keys change all the time: %s", keys.text(id_))
            else:
                self._tally(batch, outcome)

    def _reap(self, batch: Batch) -> Outcome:
        report = self._report
        try:
            return self._engine.reap(batch, report.stale_threshold_seconds, dry_run=report.dry_run)
        except BaseException as error:
            if may_have_happened(error) and not report.dry_run:
                report.cleanup_errors += 1
            raise

    def _tally(self, batch: Batch, outcome: Outcome) -> None:
        report = self._report
        report.keys_deleted += outcome.deleted
        if batch.orphaned:
            report.orphan_keys_deleted += outcome.deleted
        verdicts = zip(batch.own, outcome.coordinators, strict=True)
        kept = {id_: verdict for id_, verdict in verdicts if verdict < 0}
        self._given_up.update(id_ for id_, verdict in kept.items() if verdict == FAILED)
        reaped = [] if batch.partial else [id_ for id_ in batch.own if id_ not in kept]
        if batch.orphaned:
            reaped = [id_ for id_ in reaped if id_ not in self._held]
            report.orphaned_coordinators_reaped += len(reaped)
            self._name_orphans(reaped)
        else:
            report.reaped += len(reaped)
            self._name_revived(id_ for id_, verdict in kept.items() if verdict not in (GONE, FAILED))
        if FAILED in outcome.coordinators or outcome.fatal:
            report.cleanup_errors += 0 if report.dry_run else 1
        if outcome.fatal:
            raise outcome.fatal

    def _name_revived(self, coordinators: Iterable[bytes]) -> None:
        for id_ in coordinators:
            if id_ not in self._revived:
                self._revived.add(id_)
                self._report.revived_coordinators += 1
                logger.info("Coordinator revived, kept: %s", keys.text(id_))

    def _name_orphans(self, reaped: list[bytes]) -> None:
        room = len(reaped) if self._max_named is None else self._max_named - self._named
        for id_ in reaped[: max(0, room)]:
            logger.info("Orphaned coordinator reaped: %s", keys.text(id_))
        self._named += len(reaped)
