"""Holds: where nobody seems to be alive, more likely nobody can reach Redis, or a clock is wrong.

No rule about one coordinator can see that. So a sweep that finds at least `FEW` who look dead, and nobody who
beats, deletes nothing, and notes since when, and what those wrote who beat last. A later sweep goes on once
somebody beats again and `OTHERS_MS` more have passed, or once as much time as the threshold has passed and
nothing has changed of what was noted.
"""

import heapq
from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import NamedTuple, NoReturn

from redis.exceptions import RedisError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import times_of
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.clock import MACHINE, Clock
from cleanup_tasks.sweep.fleet import Due, Fleet
from cleanup_tasks.sweep.notes import Note, Notes
from cleanup_tasks.sweep.options import Options

#: Fewer than this may well have died one by one.
FEW = 20
#: How long the others have to beat once somebody does, in ms.
OTHERS_MS = 30_000
#: Of how many it is noted what they wrote.
MAX_NOTED = 100


class Held(Exception):
    """Nothing is to be deleted now; the report says why."""


class _Sign(NamedTuple):
    """What somebody has written."""

    id: bytes
    #: The id as the note spells it.
    name: str
    #: The time that its heartbeat says, or its activity where it has none; 0: none.
    time_ms: float
    #: Of heartbeat and activity; empty where there is none.
    digests: tuple[str, str]

    def differs_from(self, note: Note) -> bool:
        """Whether something was written since the note; what has expired was not."""
        noted = note.values.get(self.name, self.digests)
        return any(now not in ("", was) for now, was in zip(self.digests, noted, strict=True))


class Hold:
    """Whether a sweep may delete what it has found."""

    def __init__(self, servers: Topology, options: Options, report: Report, fleet: Fleet) -> None:
        """For a sweep of this fleet; `report` is told why and until when it is held."""
        self._servers = servers
        self._options = options
        self._report = report
        self._fleet = fleet
        self._notes = Notes(servers, options.threshold_s + options.interval_s, dry_run=options.dry_run)
        self._note = Note()
        self._now_ms = 0
        self._jump_ms = 0

    def begin(self) -> None:
        """Read what the sweep before has noted, and look at the clock."""
        self._note = self._notes.read()
        self._clock = Clock(self._note.clocks.get(MACHINE))
        self._look()

    def decide(self) -> None:
        """Decide after all have been found, and orphans that are due are known; raises Held."""
        self.check_clock()
        options, note = self._options, self._note
        if options.force or not options.hold_percent:
            return
        number = self._report.stale_coordinators_found + sum(due.is_orphan for due in self._fleet.due())
        lively = self._lively()
        seems_dead = number >= FEW and 100 * number >= options.hold_percent * (number + lively)
        why = (
            f"{number} of {number + lively} look dead" if lively else f"nobody beats, and {number} look dead"
        )
        if not (note.since_ms and number):
            if seems_dead:
                self._hold_anew(why)
            self._release()
        elif lively and not seems_dead:
            note.beating_ms = note.beating_ms or self._now_ms
            self._hold_until(note.beating_ms + OTHERS_MS, "somebody beats again, and others may follow")
            for sign in self._changed():
                self._fleet.protect([sign.id])  # whoever writes is alive, whatever its clock says
                self._report.revived_coordinators += 1
            self._release()
        else:
            self._stay(why)

    def _stay(self, why: str) -> None:
        """Decide in a hold where still nobody beats; raises Held."""
        note, changed = self._note, self._changed()
        note.beating_ms = 0
        if changed:
            behind_s = (self._now_ms - changed[0].time_ms) / 1000
            self._hold_anew(
                f"{why}, but {len(changed)} have written since the last sweep: the clocks of Redis and "
                f"coordinators differ, by about {behind_s:.0f} s",
                ends=False,
            )
        if note.values and not any(_name(due.id) in note.values for due in self._fleet.due()):
            self._hold_anew(f"{why}, others than before")
        self._hold_until(note.since_ms + 1000 * self._options.threshold_s, why)

    def check_clock(self) -> None:
        """Raise Held if the servers' clock has jumped since the look before."""
        self._look()
        jump_ms, self._jump_ms = self._jump_ms, 0
        if not jump_ms or self._options.force:
            return
        if not self._options.dry_run:
            try:  # they don't say any more how long ago it was
                self._servers.client_for(keys.SIGHTINGS).unlink(keys.SIGHTINGS)
            except RedisError as error:
                logger.warning("The sightings of orphans can't be forgotten: %s", error)
        self._hold_anew(f"the clock of Redis has jumped by {jump_ms / 1000:+.0f} s")

    def end(self, *, has_sightings: bool) -> None:
        """After a sweep that came to its end; where orphans are sighted, the next one needs the clock."""
        if has_sightings:
            self._notes.write(Note(clocks=self._clocks()))
        else:
            self._notes.delete()

    def _look(self) -> None:
        self._now_ms = self._servers.now_ms()
        if self._now_ms:  # on a cluster perhaps nobody can be asked
            self._jump_ms = self._clock.look(self._now_ms) or self._jump_ms

    def _clocks(self) -> dict[str, int]:
        others = {machine: ahead for machine, ahead in self._note.clocks.items() if machine != MACHINE}
        ours = {MACHINE: self._clock.ahead_ms} if MACHINE and self._clock.ahead_ms is not None else {}
        return others | ours

    def _lively(self) -> int:
        """How many beat: by a fresh heartbeat, or one that is ahead and was written anew."""
        ahead = (_Sign(id_, _name(id_), 0, (_digest(value), "")) for id_, value in self._fleet.ahead.items())
        return self._fleet.lively + sum(sign.differs_from(self._note) for sign in ahead)

    def _changed(self) -> list[_Sign]:
        """What those who look dead have written since the note, the latest first."""
        note, signs = self._note, _signs(self._fleet.due(), self._now_ms)
        changed = [
            sign
            for sign in signs
            if sign.differs_from(note) or (sign.name not in note.values and 0 < note.latest_ms < sign.time_ms)
        ]
        return sorted(changed, key=attrgetter("time_ms"), reverse=True)

    def _hold_anew(self, reason: str, *, ends: bool = True) -> NoReturn:
        """Hold from now on; `ends`: whether it is known when that ends if nothing changes."""
        latest = heapq.nlargest(MAX_NOTED, _signs(self._fleet.due(), self._now_ms), key=attrgetter("time_ms"))
        self._note = Note(
            since_ms=self._now_ms,
            latest_ms=latest[0].time_ms if latest else 0,
            values={_name(id_): (_digest(value), "") for id_, value in self._fleet.ahead.items()}
            | {sign.name: sign.digests for sign in latest},
            clocks=self._note.clocks,
        )
        self._hold(reason, self._now_ms + 1000 * self._options.threshold_s if ends else None)

    def _hold_until(self, until_ms: int, reason: str) -> None:
        """Hold, unless it is that time."""
        if self._now_ms < until_ms:
            self._hold(reason, until_ms)

    def _hold(self, reason: str, until_ms: int | None) -> NoReturn:
        self._note.clocks = self._clocks()
        self._notes.write(self._note)
        report = self._report
        report.held, report.held_since_ms, report.held_until_ms = reason, self._note.since_ms, until_ms
        raise Held(reason)

    def _release(self) -> None:
        """Forget that sweeps were held, at once: if this one is cut off, the next one has to look anew."""
        if self._note.since_ms:
            self._note = Note(clocks=self._clocks())
            self._notes.write(self._note)


def _signs(coordinators: Sequence[Due], now_ms: int) -> list[_Sign]:
    values = [(due.guards.expected[0], due.guards.expected[1]) for due in coordinators]
    # an orphan has no heartbeat
    times = times_of([heartbeat or activity for heartbeat, activity in values], now_ms)
    return [
        _Sign(due.id, _name(due.id), time or 0, (_digest(heartbeat), _digest(activity)))
        for due, time, (heartbeat, activity) in zip(coordinators, times, values, strict=True)
    ]


def _name(id_: bytes) -> str:
    return id_.decode("latin-1")


def _digest(value: bytes) -> str:
    return blake2b(value, digest_size=8).hexdigest() if value else ""
