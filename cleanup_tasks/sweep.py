"""One sweep: find the stale, collect their keys, let the engine judge and reap, report."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch, Collector
from cleanup_tasks.engines import FAILED, GONE, Engine, Outcome
from cleanup_tasks.failures import may_have_happened
from cleanup_tasks.log import logger
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
    ) -> None:
        """Fill in `report`, whose threshold and dry run are those of the sweep.

        `progress` is called at every step; `max_named` is how many unreadable heartbeats the log names.
        """
        self._servers = servers
        self._engine = engine
        self._report = report
        self._progress = progress
        self._max_named = max_named
        self._stale: dict[bytes, None] = {}
        self._kept: set[bytes] = set()
        self._revived: set[bytes] = set()

    def run(self) -> None:
        """Sweep once. Raises what the client raises; the report then says what was done up to there."""
        self._find()
        self._report.stale_coordinator_ids = list(self._stale)
        if self._stale:
            collector = Collector(self._stale, self._kept)
            for page in self._scan(keys.RELATED_PATTERN, "collecting"):
                collector.add(page)
            done = 0
            # Where not all could be seen heartbeats stay, to find again what was missed.
            unsure = self._servers.failure is not None
            for batch in collector.batches():
                self._settle(replace(batch, partial=True) if unsure else batch)
                done += 0 if batch.partial else len(batch.own)
                self._progress("reaping", done, len(self._stale))
        if self._servers.failure is not None:
            if not (self._report.cleanup_errors or self._report.dry_run):
                self._report.cleanup_errors += 1
            raise self._servers.failure
        self._report.complete = not self._report.cleanup_errors

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
        self._stale |= dict.fromkeys(stale)
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
        verdicts = zip(batch.own, outcome.coordinators, strict=True)
        kept = {id_: verdict for id_, verdict in verdicts if verdict < 0}
        if not batch.partial:
            report.reaped += len(batch.own) - len(kept)
        for id_, verdict in kept.items():
            if id_ not in self._revived and verdict not in (GONE, FAILED):
                self._revived.add(id_)
                report.revived_coordinators += 1
                logger.info("Coordinator revived, kept: %s", keys.text(id_))
        if FAILED in outcome.coordinators or outcome.fatal:
            report.cleanup_errors += 0 if report.dry_run else 1
        if outcome.fatal:
            raise outcome.fatal
