"""Holds: where nobody seems to be alive, more likely nobody can reach Redis, or a clock is wrong.

No rule about one coordinator can see that. So a sweep that finds at least `FEW` who look dead, and nobody who
beats, deletes nothing, and notes since when, and what those wrote who beat last. A later sweep goes on once
somebody beats again and `OTHERS_MS` more have passed, or once as much time as the threshold has passed and
nothing has changed of what was noted.
"""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from redis.exceptions import RedisError, ResponseError

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.clock import jump_of
from cleanup_tasks.sweep.fleet import Due, Fleet
from cleanup_tasks.sweep.notes import Note, Notes
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.writers import Writers, written_at

#: Fewer than this may well have died one by one.
FEW = 20
#: How long the others have to beat once somebody does, in ms.
OTHERS_MS = 30_000
#: How long after the end of a hold another attempt goes on, in ms; at most as long as the threshold, for
#: nobody who has beaten since can look dead by then.
ATTEMPTS_MS = 600_000


class Held(Exception):
    """Nothing is to be deleted now; the report says why."""


class _Counts(NamedTuple):
    """How a fleet looks."""

    #: How many look dead.
    silent: int
    #: How many beat.
    lively: int
    #: Whether that is as if all had died.
    seems_dead: bool


class Hold:
    """Whether a sweep may delete what it has found."""

    def __init__(self, servers: Topology, options: Options, report: Report, fleet: Fleet) -> None:
        """For a sweep of this fleet; `report` is told why and until when it is held."""
        self._servers = servers
        self._options = options
        self._report = report
        self._fleet = fleet
        self._notes = Notes(servers, options)
        self._note = Note()
        self._writers = Writers(fleet, self._note, options.threshold_s)
        self._now_ms = 0
        self._jump_ms = 0
        #: Ids of those who look dead and were seen to write.
        self.protected: set[bytes] = set()
        #: Whether sightings of orphans don't say any more how long ago they were.
        self.are_sightings_void = False

    def begin(self) -> None:
        """Read what the sweep before has noted, and look at the clock and at which servers these are."""
        self._note = note = self._notes.read()
        self._writers = Writers(self._fleet, note, self._options.threshold_s)
        self._read_clock()
        run_ids = self._run_ids()
        # where it has started anew it was down for a time, or has come back as it was before
        if self._jump_ms or (note.run_ids and not set(note.run_ids).issuperset(run_ids)):
            self._forget_sightings()
            note.begin_anew(self._now_ms)
        note.run_ids = run_ids

    def decide(self, leave_out_bare_orphans: Callable[[], object]) -> None:
        """Decide after all have been found, and orphans that are due are known; raises Held.

        `leave_out_bare_orphans` takes those off the fleet of which no key is left; called where they matter.
        """
        self.check_clock()
        changed = self._writers.note_changed(self._now_ms)
        if self._options.force or not self._options.hold_percent:
            self._release()
        else:
            if self._count_orphans() and (self._note.since_ms or self._counts().seems_dead):
                leave_out_bare_orphans()
            self._decide(changed)
        self._protect()

    def check_clock(self) -> None:
        """Raise Held if the servers' clock has jumped since the look before."""
        self._read_clock()
        jump_ms, self._jump_ms = self._jump_ms, 0
        if not jump_ms:
            return
        self._forget_sightings()
        self._note.begin_anew(self._now_ms)
        if not self._options.force:
            self._hold_anew(f"the clock of Redis has jumped by {jump_ms / 1000:+.0f} s")

    def protect_returned(self, coordinators: list[Due]) -> None:
        """Protect some that had no heartbeat when they were sighted: whoever has written it since lives."""
        if coordinators:
            self._writers.add(coordinators, self._now_ms)
            self._write()

    def protect_writers(self) -> None:
        """Protect those of the fleet who were seen to write, whatever their clock says."""
        self._writers.note_changed(self._now_ms)
        self._protect()

    def end(self, *, has_sightings: bool) -> None:
        """After a sweep that came to its end; where orphans are sighted, the next one needs the clock."""
        note = self._note
        if not note.since_ms:
            self._writers.forget_others(self._now_ms)
            note.released_ms = 0
        if has_sightings or note.since_ms or note.traces:
            self._write()
        else:
            self._notes.delete(note)

    def _count_orphans(self) -> int:
        return sum(due.is_orphan for due in self._fleet.due())

    def _counts(self) -> _Counts:
        fleet = self._fleet
        number = self._report.stale_coordinators_found + self._count_orphans()
        if not self._note.since_ms:
            number -= len(self._writers.living(self._now_ms))
        lively = fleet.lively + self._writers.written_ahead()
        # who fell silent with the others may not be stale by a hair
        silent = number if lively else number + fleet.fading
        many = number > 0 and silent >= FEW
        seems_dead = many and 100 * number >= self._options.hold_percent * (number + lively)
        return _Counts(number, lively, seems_dead)

    def _decide(self, changed: list[Due]) -> None:
        note = self._note
        number, lively, seems_dead = self._counts()
        why = (
            f"{number} of {number + lively} look dead" if lively else f"nobody beats, and {number} look dead"
        )
        if not note.since_ms:
            attempts_ms = min(ATTEMPTS_MS, 1000 * self._options.threshold_s)
            if seems_dead and self._now_ms >= note.released_ms + attempts_ms:
                self._hold_anew(why)
        elif lively and not seems_dead:
            self._end_since_somebody_beats(number)
        elif number:
            self._end_in_time(why, changed)

    def _end_since_somebody_beats(self, number: int) -> None:
        note = self._note
        note.beating_ms = note.beating_ms or self._now_ms
        until_ms = note.beating_ms + OTHERS_MS
        if self._now_ms >= until_ms:
            self._release()
        elif number:
            self._hold("somebody beats again, and others may follow", until_ms)

    def _end_in_time(self, why: str, changed: list[Due]) -> None:
        note = self._note
        note.beating_ms = 0
        if changed:
            latest_ms = max(written_at(changed, self._now_ms))
            by = f", by about {(self._now_ms - latest_ms) / 1000:.0f} s" if latest_ms else ""
            self._hold_anew(
                f"{why}, but {len(changed)} have written since the last sweep: the clocks of Redis and "
                f"coordinators differ{by}",
                ends=False,
            )
        if self._writers.are_others():
            self._hold_anew(f"{why}, others than before")
        until_ms = note.since_ms + 1000 * self._options.threshold_s
        if self._now_ms < until_ms:
            self._hold(why, until_ms)
        note.released_ms = self._now_ms
        self._release()

    def _hold_anew(self, reason: str, *, ends: bool = True) -> NoReturn:
        """Hold from now on; `ends`: whether it is known when that ends if nothing changes."""
        self._note.since_ms, self._note.beating_ms, self._note.released_ms = self._now_ms, 0, 0
        self._writers.note_all(self._now_ms)
        self._hold(reason, self._now_ms + 1000 * self._options.threshold_s if ends else None)

    def _hold(self, reason: str, until_ms: int | None) -> NoReturn:
        self._write()
        report = self._report
        report.held, report.held_since_ms, report.held_until_ms = reason, self._note.since_ms, until_ms
        raise Held(reason)

    def _release(self) -> None:
        """Note that sweeps are held no more, at once: if this one is cut off, the next one has to know."""
        if self._note.since_ms:
            self._note.since_ms = self._note.beating_ms = 0
            self._write()  # with all who were noted, for some may be found to have written later on

    def _protect(self) -> None:
        living = self._writers.living(self._now_ms)
        self._fleet.protect([due.id for due in living])
        self.protected.update(due.id for due in living)
        self._report.revived_coordinators += sum(not due.is_orphan for due in living)
        if living:
            logger.warning(
                "Clocks differ: who looks dead has written something since it was noted, and is kept "
                "(%d in number, %s among them)",
                len(living),
                keys.text(living[0].id),
            )

    def _read_clock(self) -> None:
        """Note what time it is, and by how much the clock has jumped if it has."""
        self._now_ms = self._servers.now_ms()
        if self._now_ms:  # on a cluster perhaps nobody can be asked
            self._jump_ms = jump_of(self._note, self._now_ms) or self._jump_ms

    def _run_ids(self) -> list[str]:
        """Which start of which servers this is; empty where they don't say."""
        try:
            return sorted(info["run_id"] for info in self._servers.infos() if "run_id" in info)
        except ResponseError:
            return []

    def _forget_sightings(self) -> None:
        self.are_sightings_void = True
        if not self._options.dry_run:
            try:
                self._servers.client_for(keys.SIGHTINGS).unlink(keys.SIGHTINGS)
            except RedisError as error:
                logger.warning("The sightings of orphans can't be forgotten: %s", error)

    def _write(self) -> None:
        self._notes.write(self._note, self._now_ms)
