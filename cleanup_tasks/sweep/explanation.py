"""What a sweep would do and why, coordinator by coordinator: it finds and collects as a sweep does."""

import contextlib
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from redis.exceptions import NoPermissionError

from cleanup_tasks.reporting.durations import in_words
from cleanup_tasks.reporting.log import printable
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import EXPLANATIONS, State, judge, reason_of, times_of
from cleanup_tasks.servers.pipelining import chunks
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.collector import Collector
from cleanup_tasks.sweep.finder import Finder
from cleanup_tasks.sweep.fleet import Fleet
from cleanup_tasks.sweep.holds import Held, Hold
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.orphans import Sightings, bare_orphans
from cleanup_tasks.sweep.skips import reason_to_skip

Verdict = Literal["stale", "orphaned", "unreadable", "active"]
#: Which come first: those about which something is done.
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(slots=True)
class Key:
    """A key of a coordinator."""

    name: bytes
    #: Whether a sweep that is neither held nor skipped would delete it, if nothing changes before.
    goes: bool
    #: The other owners, and what they are.
    shared_with: dict[bytes, str]
    #: The owners for which it stays, and what they are.
    kept_by: dict[bytes, str]


@dataclass(slots=True)
class Explained:
    """A coordinator: its signs of life, what a sweep makes of them, and its keys."""

    id: bytes
    verdict: Verdict
    #: Whether a sweep that is neither held nor skipped would delete keys of it.
    goes: bool
    reason: str
    #: In seconds by the server's clock; None where there is none, or none that can be read.
    heartbeat_age_s: int | None = None
    activity_age_s: int | None = None
    #: Of an orphan: how long ago it was first seen, and how long it has to wait; None where nobody noted it.
    sighted_age_s: int | None = None
    due_in_s: int | None = None
    keys: list[Key] = field(default_factory=list)


def shown(name: bytes) -> str:
    """An id or a key as it is printed."""
    return printable(keys.text(name))


class Explanation:
    """Looks at everybody once. It writes nothing: no lock, no sighting, no deletion."""

    def __init__(self, servers: Topology, options: Options) -> None:
        """Explain what a sweep with these options would do on connected servers."""
        self._servers = servers
        self._options = options
        self._fleet = Fleet()
        self._sightings = Sightings(
            servers.client_for(keys.SIGHTINGS), options.threshold_s, options.interval_s
        )
        self._protected: set[bytes] = set()
        self._to_reap: set[bytes] = set()
        self._found_stale: set[bytes] = set()
        #: Why a sweep would delete nothing now, or None; known once all was explained.
        self.held: str | None = None
        #: Until when sweeps from now on are held if nothing changes, in ms; None where that is not known.
        self.held_until_ms: int | None = None
        #: Why a sweep would not even begin now, or None.
        self.skipped: str | None = None

    def explain(self, wanted: str | None = None) -> list[Explained]:
        """Everybody, or just who is shown so; raises RedisError where not all can be seen."""
        servers, fleet, threshold_s = self._servers, self._fleet, self._options.threshold_s
        self.skipped = reason_to_skip(servers, self._options)
        report = Report(stale_threshold_seconds=threshold_s)
        hold = Hold(servers, replace(self._options, dry_run=True), report, fleet)
        hold.begin()
        Finder(servers, report, threshold_s, max_named=0).find(servers.scan(keys.HEARTBEAT_PATTERN), fleet)
        with_heartbeat = set(fleet.coordinators)
        now_ms = servers.now_ms()
        reaps = self._options.orphans == "reap"
        if not hold.are_sightings_void:
            with contextlib.suppress(*(() if reaps else (NoPermissionError,))):
                self._sightings.read()
            hold.protect_returned(self._sightings.returned(fleet))
        if reaps:
            self._sightings.add_due(fleet, servers, now_ms)
        with contextlib.suppress(Held):
            hold.decide(lambda: fleet.leave_out(bare_orphans(fleet, servers.scan(keys.RELATED_PATTERN))))
        self.held, self.held_until_ms = report.held, report.held_until_ms
        self._protected, self._found_stale = hold.protected, set(report.stale_coordinator_ids)
        collector = Collector(fleet, servers, now_ms, threshold_s)
        pages = list(servers.scan(keys.RELATED_PATTERN))
        collector.collect(pages)
        self._to_reap = {due.id for due in collector.orphans_to_reap()}
        everybody = self._judged(sorted(with_heartbeat | collector.orphans))
        asked_for = [each for each in everybody.values() if wanted in (None, shown(each.id))]
        related = {key for page in pages for key in page}
        self._add_keys(related, everybody, {each.id: each for each in asked_for}, collector)
        if servers.failure is not None:
            raise servers.failure
        return sorted(asked_for, key=lambda each: VERDICTS.index(each.verdict))

    def _judged(self, ids: list[bytes]) -> dict[bytes, Explained]:
        lots = chunks(ids, self._servers.limits.read_keys)
        requests = ((lot, [*map(keys.heartbeat, lot), *map(keys.activity, lot)]) for lot in lots)
        explained = {}
        for lot, now_ms, values in self._servers.read(requests):
            for id_ in lot:
                signs = values.get(keys.heartbeat(id_)), values.get(keys.activity(id_))
                explained[id_] = each = self._verdict(id_, *signs, now_ms)
                ages = [
                    None if ms is None else max(0, int(now_ms - ms)) // 1000 for ms in times_of(signs, now_ms)
                ]
                each.heartbeat_age_s, each.activity_age_s = ages
        return explained

    def _verdict(self, id_: bytes, heartbeat: bytes | None, activity: bytes | None, now_ms: int) -> Explained:
        threshold_s = self._options.threshold_s
        if id_ not in self._fleet.coordinators or heartbeat == b"":
            return self._orphan(id_, now_ms)
        state = judge(heartbeat, activity, now_ms, threshold_s)
        if state is State.UNREADABLE:
            why = EXPLANATIONS[reason_of(heartbeat, now_ms)]
            return Explained(id_, "unreadable", goes=False, reason=why)
        if state.is_active:
            sign = "heartbeat" if judge(heartbeat, None, now_ms, threshold_s).is_active else "activity"
            return Explained(id_, "active", goes=False, reason=f"its {sign} is recent")
        if id_ in self._protected:
            why = "it has written something since it was noted, whatever its clock says"
            return Explained(id_, "stale", goes=False, reason=why)
        reason = f"no sign of life for more than {in_words(threshold_s)}"
        if self._fleet.coordinators[id_] is not None:
            return Explained(id_, "stale", goes=True, reason=reason)
        if id_ in self._found_stale:
            more = "too many are stale to go at once, so a later part of the same sweep looks at it again"
        else:
            more = "it has become stale just now, so the next sweep decides"
        return Explained(id_, "stale", goes=False, reason=f"{reason}; {more}")

    def _orphan(self, id_: bytes, now_ms: int) -> Explained:
        if self._options.orphans != "reap":
            why = "no heartbeat; --orphans reap deletes its keys"
            return Explained(id_, "orphaned", goes=False, reason=why)
        orphan = Explained(id_, "orphaned", goes=id_ in self._to_reap, reason="")
        orphan.sighted_age_s = self._sightings.age_s(id_, now_ms)
        if orphan.sighted_age_s is None:
            orphan.reason = "no heartbeat, not noted yet; a real sweep with --orphans reap does that"
            return orphan
        (orphan.due_in_s,) = self._sightings.seconds_to_wait([id_], now_ms) or [0]
        if orphan.goes:
            orphan.reason = f"no heartbeat for more than {in_words(self._options.threshold_s)}"
        elif orphan.due_in_s:
            orphan.reason = f"no heartbeat, due in {in_words(orphan.due_in_s)}"
        elif self._fleet.coordinators.get(id_) is None:
            orphan.reason = "no heartbeat, but at work"
        else:
            orphan.reason = "no heartbeat, but others may own its keys too"
        return orphan

    def _add_keys(
        self,
        related: set[bytes],
        everybody: dict[bytes, Explained],
        asked_for: dict[bytes, Explained],
        collector: Collector,
    ) -> None:
        fleet = self._fleet
        due = fleet.due()
        going = {key for one in due for key in (*one.keys, *one.records)}
        going.update(family + one.id for one in due for family in keys.WHOLE_ID)
        ids_due = {one.id for one in due}
        for name in sorted(related):
            known, unknown, _ = keys.owners(name, fleet.coordinators, fleet.lengths)
            owners = list(dict.fromkeys([*known, *unknown, *collector.others(name)]))
            goes = name in going
            verdicts = {
                owner: everybody[owner].verdict if owner in everybody else "no heartbeat" for owner in owners
            }
            kept_by = {owner: what for owner, what in verdicts.items() if not goes and owner not in ids_due}
            for id_ in asked_for.keys() & owners:
                shared_with = {owner: what for owner, what in verdicts.items() if owner != id_}
                asked_for[id_].keys.append(Key(name, goes, shared_with, kept_by))
        for each in asked_for.values():
            if each.verdict != "orphaned":  # the others have a heartbeat, which goes last
                kept_by = {} if each.goes else {each.id: each.verdict}
                each.keys.append(Key(keys.heartbeat(each.id), each.goes, {}, kept_by))
