"""Finds coordinators by their heartbeats, and sorts them to the stale and to the kept."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cleanup_tasks import keys
from cleanup_tasks.batch import Snapshot
from cleanup_tasks.log import logger
from cleanup_tasks.report import Report
from cleanup_tasks.staleness import State, judge_values, time_of, usual_times
from cleanup_tasks.topology import Topology

#: Stale coordinators that are dealt with before more are looked for. It bounds the worker's memory: each
#: takes about 1 kB with its keys. A generation costs one pass over the keyspace.
GENERATION = 200_000
#: Longer values (a heartbeat and activity together) cost time to read again, and memory to hold.
SHORT_BYTES = 200


@dataclass(slots=True)
class Generation:
    """Stale coordinators that are dealt with together."""

    stale: list[bytes] = field(default_factory=list)
    #: id -> bytes of its heartbeat and activity, where they are long.
    long_values: dict[bytes, int] = field(default_factory=dict)
    #: Of those where they are short.
    snapshot: Snapshot = field(default_factory=Snapshot)


@dataclass(frozen=True, slots=True)
class _Silent:
    """Coordinators whose heartbeats are too old."""

    #: The server's time when that was judged.
    now_ms: int
    beats: dict[bytes, bytes]
    #: Those whose heartbeats name one time only.
    usual: set[bytes]


class Finder:
    """Goes through all heartbeats once. What it read is old by then: it decides what to look at again."""

    def __init__(self, servers: Topology, report: Report, max_named: int | None) -> None:
        """Count in `report`; `max_named` is how many unreadable heartbeats the log names (None: all)."""
        self._servers = servers
        self._report = report
        self._max_named = max_named
        #: Active and unreadable ones found so far.
        self.kept: set[bytes] = set()
        #: All found so far.
        self.known: set[bytes] = set()
        #: Whether these are all.
        self.done = False
        #: The silent whose activities are still to come, lot by lot.
        self._waiting: deque[_Silent] = deque()

    def generations(self, pages: Iterable[list[bytes]]) -> Iterator[Generation]:
        """The stale among the coordinators whose heartbeats are given, the last of them when `done`.

        A heartbeat may come twice.
        """
        generation = Generation()
        for now_ms, activities in self._servers.read_each(self._silent(self._lots(pages))):
            self._sort(now_ms, activities, generation)
            if len(generation.stale) >= GENERATION:
                yield generation
                generation = Generation()
        self.done = True
        yield generation

    def _lots(self, pages: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
        """Heartbeats to read."""
        lot: list[bytes] = []
        for page in pages:
            for name in page:
                id_ = keys.coordinator_of(name)
                if id_ not in self.known:
                    self.known.add(id_)
                    lot.append(name)
            if len(lot) >= self._servers.pace.values:
                yield lot
                lot = []
        if lot:
            yield lot

    def _silent(self, lots: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
        """Activities to read: only those of the silent, usually nobody's. The others are sorted here."""
        threshold_s = self._report.stale_threshold_seconds
        for now_ms, values in self._servers.read_each(lots):
            beats = {keys.coordinator_of(name): value for name, value in values.items()}
            read = list(values.values())
            times = usual_times(read)
            by_state: dict[State, list[bytes]] = {state: [] for state in State}
            states = judge_values(read, times, now_ms, threshold_s)
            for id_, state in zip(beats, states, strict=True):
                by_state[state].append(id_)
            self._keep_active(by_state[State.ACTIVE])
            self._keep_unreadable(by_state[State.UNREADABLE], beats)
            silent = by_state[State.STALE]
            if silent:
                usual = {id_ for id_, time in zip(beats, times, strict=True) if time}
                self._waiting.append(_Silent(now_ms, {id_: beats[id_] or b"" for id_ in silent}, usual))
                yield [keys.activity(id_) for id_ in silent]

    def _sort(self, now_ms: int, activities: dict[bytes, bytes | None], generation: Generation) -> None:
        """Sort the silent by their activities; one whose activity can't be read now is left out."""
        threshold_s = self._report.stale_threshold_seconds
        read = list(activities.values())
        times = usual_times(read)
        states = judge_values(read, times, now_ms, threshold_s)
        silent = self._waiting.popleft()
        active: list[bytes] = []
        stale: list[bytes] = []
        snapshot: dict[bytes, tuple[bytes, bytes]] = {}
        for (name, value), time, state in zip(activities.items(), times, states, strict=True):
            id_ = keys.worker_of(name)
            if state is State.ACTIVE:
                active.append(id_)
                continue
            stale.append(id_)
            beat, activity = silent.beats[id_], value or b""
            if len(beat) + len(activity) > SHORT_BYTES:
                generation.long_values[id_] = len(beat) + len(activity)
            # others may name a time in the future, which counts later; so may one that says nothing now
            elif id_ in silent.usual and (value is None or (time and state is State.STALE)):
                snapshot[id_] = beat, activity
        generation.stale += stale
        # the clock may have gone back in between
        generation.snapshot.add(max(now_ms, silent.now_ms), snapshot)
        self._keep_active(active)
        self._report.total_coordinators_checked += len(stale)
        self._report.stale_coordinators_found += len(stale)
        self._report.stale_coordinator_ids += stale
        if logger.isEnabledFor(logging.DEBUG):
            for id_ in stale:
                age_s = now_ms // 1000 - int(time_of(silent.beats[id_], now_ms) or 0) // 1000
                logger.debug("Stale coordinator detected: %s (age: %ds)", keys.text(id_), age_s)

    def _keep_active(self, active: list[bytes]) -> None:
        self.kept.update(active)
        self._report.total_coordinators_checked += len(active)
        self._report.active_coordinators += len(active)
        if logger.isEnabledFor(logging.DEBUG):
            for id_ in active:
                logger.debug("Coordinator active: %s", keys.text(id_))

    def _keep_unreadable(self, unreadable: list[bytes], beats: dict[bytes, bytes | None]) -> None:
        missing = [id_ for id_ in unreadable if beats[id_] is None]
        there = self._servers.existing(map(keys.heartbeat, missing))
        expired = {id_ for id_ in missing if not there.get(keys.heartbeat(id_))}
        self.known -= expired
        report = self._report
        for id_ in unreadable:
            if id_ in expired:  # since the scan saw it
                continue
            self.kept.add(id_)
            if self._max_named is None or report.unreadable_heartbeats < self._max_named:
                logger.warning("Invalid or missing heartbeat: %s", keys.text(id_))
            report.total_coordinators_checked += 1
            report.unreadable_heartbeats += 1
