"""Finds coordinators by their heartbeats, and judges them."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cleanup_tasks.reporting.log import DETAIL, logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import (
    AHEAD_MS,
    EXPLANATIONS,
    Reason,
    State,
    judge_values,
    reason_of,
    times_of,
)
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.activities import read_activities
from cleanup_tasks.sweep.fleet import Due, Fleet


@dataclass(slots=True)
class Judged:
    """What some coordinators are, by the values that were read of them."""

    #: The server's time in ms when the last of it was read.
    now_ms: int
    #: Those that are active or unreadable.
    kept: dict[bytes, State]
    #: Those of which a value can't be read now, for a primary was lost.
    unknown: list[bytes]
    #: Those whose heartbeats are stale, with these; their activities decide.
    silent: dict[bytes, bytes]
    #: Those of the kept whose heartbeats say nothing, and why.
    unreadable: dict[bytes, Reason] = field(default_factory=dict)
    #: Those of the kept whose heartbeats are ahead, with these.
    ahead: dict[bytes, bytes] = field(default_factory=dict)
    stale: list[Due] = field(default_factory=list)


class Finder:
    """Reads heartbeats and activities. What it read is old by then: engines compare it with what is there."""

    def __init__(self, servers: Topology, report: Report, threshold_s: int, max_named: int | None) -> None:
        """Count in `report`; `max_named` is how many unreadable heartbeats the log names (None: all)."""
        self._servers = servers
        self._report = report
        self._threshold_s = threshold_s
        self._max_named = max_named
        self._named = 0

    def find(self, pages: Iterable[list[bytes]], fleet: Fleet) -> None:
        """Note in `fleet` everybody whose heartbeat is given; one may come twice."""
        report = self._report
        for judged in self._judge(self._lots(pages)):
            fleet.add_stale(judged.stale, judged.now_ms)
            fleet.protect(judged.kept)
            fleet.protect(judged.unknown)
            self._count_unreadable(judged.unreadable)
            self._log(judged)
            states = Counter(judged.kept.values())
            fleet.lively += states[State.ACTIVE]
            fleet.fading += states[State.FADING]
            fleet.add_ahead(judged.ahead)
            report.heartbeats_ahead += len(judged.ahead)
            report.active_coordinators += len(judged.kept) - len(judged.unreadable)
            report.stale_coordinators_found += len(judged.stale)
            report.stale_coordinator_ids += [due.id for due in judged.stale]
            report.total_coordinators_checked += len(judged.kept) + len(judged.stale)
        if report.heartbeats_ahead:
            logger.warning(
                "Clocks differ: %s %d s or more ahead of the server's and counted as active, "
                "that of %s among them",
                "1 heartbeat is"
                if report.heartbeats_ahead == 1
                else f"{report.heartbeats_ahead} heartbeats are",
                AHEAD_MS // 1000,
                keys.text(next(iter(fleet.ahead))),
            )

    def find_again(self, coordinators: list[bytes], fleet: Fleet) -> None:
        """Note in `fleet` who is still stale of those that were found so, and whose values were not held."""
        for judged in self._judge(self._lots([list(map(keys.heartbeat, coordinators))])):
            fleet.add_stale(judged.stale, judged.now_ms)
            self._report.revived_coordinators += len(judged.kept)

    def _lots(self, pages: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
        """The names of all pages, once each, as many at a time as are read at once."""
        size = self._servers.limits.read_keys
        given: set[bytes] = set()
        lot: list[bytes] = []
        for page in pages:
            fresh = [name for name in dict.fromkeys(page) if name not in given]
            given.update(fresh)
            lot += fresh
            while len(lot) >= size:
                yield lot[:size]
                del lot[:size]
        if lot:
            yield lot

    def _judge(self, lots: Iterable[list[bytes]]) -> Iterator[Judged]:
        """What the coordinators with these heartbeats are, lot by lot."""
        silent = ((judged, list(judged.silent)) for judged in self._by_heartbeat(lots))
        for judged, now_ms, working, idle in read_activities(self._servers, silent, self._threshold_s):
            judged.now_ms = max(judged.now_ms, now_ms)
            judged.kept.update(working)
            judged.stale += [Due(id_, judged.silent[id_], activity) for id_, activity in idle.items()]
            if len(idle) + len(working) < len(judged.silent):
                judged.unknown += judged.silent.keys() - idle.keys() - working.keys()
            yield judged

    def _by_heartbeat(self, lots: Iterable[list[bytes]]) -> Iterator[Judged]:
        stale, is_unreadable, ahead = State.STALE, State.UNREADABLE, State.AHEAD
        for lot, now_ms, values in self._servers.read((lot, lot) for lot in lots):
            unknown = [name for name in lot if name not in values] if len(values) < len(lot) else []
            judged = Judged(now_ms, {}, keys.ids_of_heartbeats(unknown), {})
            states = judge_values(list(values.values()), now_ms, self._threshold_s)
            unreadable: dict[bytes, bytes | None] = {}
            for id_, value, state in zip(
                keys.ids_of_heartbeats(values), values.values(), states, strict=True
            ):
                if state is stale:
                    judged.silent[id_] = value or b""
                elif state is is_unreadable:
                    unreadable[id_] = value
                else:
                    judged.kept[id_] = state
                    if state is ahead:
                        judged.ahead[id_] = value or b""
            # one that has expired since the scan saw it is nobody's heartbeat any more
            missing = {keys.heartbeat(id_) for id_, value in unreadable.items() if value == b""}
            missing -= self._servers.existing(missing)
            for id_, value in unreadable.items():
                if keys.heartbeat(id_) not in missing:
                    judged.kept[id_] = State.UNREADABLE
                    judged.unreadable[id_] = reason_of(value, now_ms)
            yield judged

    def _count_unreadable(self, unreadable: dict[bytes, Reason]) -> None:
        report = self._report
        report.unreadable_heartbeats += len(unreadable)
        room = len(unreadable) if self._max_named is None else max(0, self._max_named - self._named)
        self._named += len(unreadable)
        for number, (id_, reason) in enumerate(unreadable.items()):
            report.unreadable_by_reason[reason] = report.unreadable_by_reason.get(reason, 0) + 1
            report.unreadable_examples.setdefault(reason, id_)
            if number < room:
                text = "Invalid or missing heartbeat: %s (%s)"
                logger.warning(text, keys.text(id_), EXPLANATIONS[reason], extra=DETAIL)

    def _log(self, judged: Judged) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            for id_, state in judged.kept.items():
                if state.is_active:
                    logger.debug("Coordinator active: %s", keys.text(id_))
            times = times_of([judged.silent[due.id] for due in judged.stale], judged.now_ms)
            for due, time in zip(judged.stale, times, strict=True):
                age_s = judged.now_ms // 1000 - int(time or 0) // 1000
                logger.debug("Stale coordinator detected: %s (age: %ds)", keys.text(due.id), age_s)
