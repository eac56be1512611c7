"""Finds coordinators by their heartbeats, and judges them."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import State, judge_values, times_of
from cleanup_tasks.servers.topology import Topology
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
        for judged in self._judge(self._lots(_once(pages))):
            for due in judged.stale:
                fleet.add_due(due, judged.now_ms)
            fleet.protect(judged.kept)
            fleet.protect(judged.unknown)
            self._log(judged)
            unreadable = sum(state is State.UNREADABLE for state in judged.kept.values())
            report.unreadable_heartbeats += unreadable
            report.active_coordinators += len(judged.kept) - unreadable
            report.stale_coordinators_found += len(judged.stale)
            report.stale_coordinator_ids += [due.id for due in judged.stale]
            report.total_coordinators_checked += len(judged.kept) + len(judged.stale)

    def find_again(self, coordinators: list[bytes], fleet: Fleet) -> None:
        """Note in `fleet` who is still stale of those that were found so, and whose values were not held."""
        for judged in self._judge(self._lots(map(keys.heartbeat, coordinators))):
            for due in judged.stale:
                fleet.add_due(due, judged.now_ms)
            self._report.revived_coordinators += len(judged.kept)

    def _lots(self, names: Iterable[bytes]) -> Iterator[list[bytes]]:
        lot: list[bytes] = []
        for name in names:
            lot.append(name)
            if len(lot) >= self._servers.limits.read_keys:
                yield lot
                lot = []
        if lot:
            yield lot

    def _judge(self, lots: Iterable[list[bytes]]) -> Iterator[Judged]:
        """What the coordinators with these heartbeats are, lot by lot."""
        activities = (
            (judged, list(map(keys.activity, judged.silent))) for judged in self._by_heartbeat(lots)
        )
        for judged, now_ms, values in self._servers.read(activities):
            states = dict(zip(values, self._states(values, now_ms), strict=True))
            judged.now_ms = max(judged.now_ms, now_ms)
            for id_, heartbeat in judged.silent.items():
                name = keys.activity(id_)
                if name not in values:
                    judged.unknown.append(id_)
                elif states[name] is State.ACTIVE:
                    judged.kept[id_] = State.ACTIVE
                else:
                    judged.stale.append(Due(id_, heartbeat, values[name]))
            yield judged

    def _by_heartbeat(self, lots: Iterable[list[bytes]]) -> Iterator[Judged]:
        for lot, now_ms, values in self._servers.read((lot, lot) for lot in lots):
            unknown = [keys.id_of_heartbeat(name) for name in lot if name not in values]
            judged = Judged(now_ms, {}, unknown, {})
            missing: list[bytes] = []
            for (name, value), state in zip(values.items(), self._states(values, now_ms), strict=True):
                if value is None:
                    missing.append(name)
                elif state is State.STALE:
                    judged.silent[keys.id_of_heartbeat(name)] = value
                else:
                    judged.kept[keys.id_of_heartbeat(name)] = state
            # one that has expired since the scan saw it is nobody's heartbeat any more
            there = self._servers.existing(missing)
            judged.kept.update((keys.id_of_heartbeat(name), State.UNREADABLE) for name in there)
            yield judged

    def _states(self, values: dict[bytes, bytes | None], now_ms: int) -> list[State]:
        return judge_values(list(values.values()), now_ms, self._threshold_s)

    def _log(self, judged: Judged) -> None:
        for id_, state in judged.kept.items():
            if state is State.UNREADABLE and (self._max_named is None or self._named < self._max_named):
                self._named += 1
                logger.warning("Invalid or missing heartbeat: %s", keys.text(id_))
        if logger.isEnabledFor(logging.DEBUG):
            for id_, state in judged.kept.items():
                if state is State.ACTIVE:
                    logger.debug("Coordinator active: %s", keys.text(id_))
            times = times_of([judged.silent[due.id] for due in judged.stale], judged.now_ms)
            for due, time in zip(judged.stale, times, strict=True):
                age_s = judged.now_ms // 1000 - int(time or 0) // 1000
                logger.debug("Stale coordinator detected: %s (age: %ds)", keys.text(due.id), age_s)


def _once(pages: Iterable[list[bytes]]) -> Iterator[bytes]:
    """The names of all pages; a scan may give one twice."""
    given: set[bytes] = set()
    for page in pages:
        for name in page:
            if name not in given:
                given.add(name)
                yield name
