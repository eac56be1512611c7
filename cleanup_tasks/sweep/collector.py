"""Goes through the related keys once, and hands each to the coordinators that own it."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import EARLIEST_MS, oldest_active_ms
from cleanup_tasks.servers.pipelining import chunks
from cleanup_tasks.servers.topology import Topology
from cleanup_tasks.sweep.activities import read_activities
from cleanup_tasks.sweep.fleet import KEY_BYTES, LEAST_LOAD, MAX_KEY_BYTES, RECORD_BYTES, Due, Fleet

_NUMBER = attrgetter("number")


class Collector:
    """Hands out keys to those that are due, and remembers who has keys and no heartbeat."""

    def __init__(self, fleet: Fleet, servers: Topology, now_ms: int, threshold_s: int) -> None:
        """For those that are due in `fleet`.

        Args:
            fleet: everybody who is known.
            servers: where the keys are.
            now_ms: the servers' time in ms since the epoch.
            threshold_s: the threshold of the sweep, in seconds.
        """
        self._fleet = fleet
        self._coordinators = fleet.coordinators
        self._servers = servers
        self._threshold_s = threshold_s
        self._oldest_active_ms = oldest_active_ms(now_ms, threshold_s)
        #: Coordinators so far apart are not under way at the same time. A batch is full once `batch_keys` is
        #: reached, so it holds at most one coordinator more than the quotient. Under way are the batches in
        #: flight, the one more that the Python engine takes, and the one that is being made.
        self._far = (servers.limits.batch_keys // LEAST_LOAD + 1) * (servers.limits.in_flight + 2)
        self._held_bytes = 0
        #: Ids that keys name which nobody with a heartbeat owns.
        self.orphans: set[bytes] = set()
        #: Orphans that are due, of which a signal or an activity was seen.
        self._with_own: set[bytes] = set()
        self._others: set[bytes] = set()
        self._others_lengths: set[int] = set()
        #: Parties without a heartbeat of the records that are held -> their activity.
        self.absent: dict[bytes, bytes] = {}

    def collect(self, pages: Iterable[list[bytes]]) -> None:
        """Take in all related keys; one may come twice."""
        coordinators, lengths, owners = self._coordinators, self._fleet.lengths, keys.owners
        for page in self._without_protected(pages):
            for key in page:
                known, unknown, sent_ms = owners(key, coordinators, lengths)
                if not known:
                    self.orphans.update(unknown)
                elif not (due := coordinators[known[0]]) and known[0] not in self._fleet.gone:
                    continue  # its first owner is protected
                elif len(known) > 1 or unknown:
                    self._share(key, known, unknown, sent_ms)
                elif due:
                    self._hold(key, due)
            if self._held_bytes > MAX_KEY_BYTES:
                self._fleet.shrink()
                self._held_bytes //= 2
        if self._servers.failure is not None:
            self._leave_what_is_unsure()
        self._leave_to_orphans()
        self._read_absent()

    def _without_protected(self, pages: Iterable[list[bytes]]) -> Iterable[list[bytes]]:
        """Leave out what stays since its first owner is protected, where that holds for most keys."""
        coordinators, first_owner = self._coordinators, keys.first_owner
        protected = sum(due is None for due in coordinators.values())
        if self._fleet.gone or 2 * protected < len(coordinators):
            return pages
        return (
            [key for key in page if (first := first_owner(key)) is None or coordinators.get(first, True)]
            for page in pages
        )

    def others(self, key: bytes) -> list[bytes]:
        """Who may own a key too, has no heartbeat and is not due, where ids hold colons.

        An ack of ``team:40`` looks like one of ``team``, and the other way round. Only once all was collected
        it is known that there is such an id.
        """
        found = keys.owners(key, self._others, self._others_lengths)[0]
        # who owns a message of two plain ids is known by its form
        return [id_ for id_ in found if b":" in id_] if keys.names_two_parties(key) else [*found]

    def orphans_to_reap(self) -> list[Due]:
        """The orphans that are due, in the order in which they go; who has no key that goes is left out."""
        due = self._fleet.due()
        orphans = [one for one in due if one.is_orphan]
        if not orphans:
            return []
        losing = {one.id for one in orphans if one.keys or one.records} | self._with_own
        losing.update(other.id for one in due for others, _ in one.records.values() for other in others)
        return [one for one in orphans if one.id in losing]

    def _leave_what_is_unsure(self) -> None:
        """A primary was lost, and what is out of sight may name somebody who owns a key too."""
        for due in self._fleet.due():
            due.keys = [key for key in due.keys if keys.names_one_id(key)]
            due.records = {}
        self.absent = {}

    def _leave_to_orphans(self) -> None:
        coordinators = self._fleet.coordinators
        hold_colons = max(self._fleet.lengths, default=1) > 1
        self._others = {
            id_ for id_ in self.orphans if (hold_colons or b":" in id_) and coordinators.get(id_) is None
        }
        self._others_lengths = {keys.segments_of(id_) for id_ in self._others}
        for due in self._fleet.due() if self._others else ():
            due.keys = [key for key in due.keys if not self.others(key)]
            due.records = {key: shared for key, shared in due.records.items() if not self.others(key)}

    def _hold(self, key: bytes, due: Due) -> None:
        """Hold a key that one owns alone."""
        if due.is_orphan:
            self.orphans.add(due.id)
        if not key.startswith(keys.WHOLE_ID):
            due.keys.append(key)
            self._held_bytes += KEY_BYTES + len(key)
        elif due.is_orphan:
            self._with_own.add(due.id)

    def _share(
        self, key: bytes, known: Sequence[bytes], unknown: Sequence[bytes], sent_ms: float | None
    ) -> None:
        """Hold a record that several own, if all of them are due.

        It is compared with the values of all its owners if it goes with the first of them. If it goes with
        the last, the others must only be absent still, which costs less. The last one may hold it only if the
        next sweep finds it old enough too, for this one may be interrupted in between; and only if the others
        are so far ahead that it is known by then what became of them.
        """
        due = list(filter(None, map(self._coordinators.get, known)))
        absent = unknown
        if len(due) < len(known):
            # those that went in an earlier generation are due too; everybody else is protected
            absent = [id_ for id_ in known if id_ in self._fleet.gone] + [*unknown]
            if not due or len(due) + len(absent) < len(known) + len(unknown):
                return
        elif due[0].is_orphan and all(one.is_orphan for one in due):
            self.orphans.update(known, unknown)
        is_old = sent_ms is not None and EARLIEST_MS <= sent_ms < self._oldest_active_ms
        if absent:
            # the message is the last sign that we have of a party without a heartbeat
            if unknown and not is_old:
                return
            self.absent.update(dict.fromkeys(absent, b""))
        if len(due) > 1:
            if len(due) > 2 or due[0].number > due[1].number:
                due.sort(key=_NUMBER)
            if is_old and due[-1].number - due[-2].number >= self._far and not due[-1].is_orphan:
                due.reverse()
        due[0].records[key] = due[1:], absent
        self._held_bytes += RECORD_BYTES + len(key)

    def _read_absent(self) -> None:
        """Read the activities of the parties without a heartbeat; who is at work keeps its records."""
        ids = list(self.absent)
        lots = ((None, lot) for lot in chunks(ids, self._servers.limits.read_keys))
        protected = set(ids)
        for _, now_ms, _working, silent in read_activities(self._servers, lots, self._threshold_s):
            self._fleet.judged_at_ms = max(self._fleet.judged_at_ms, now_ms)
            self.absent.update(silent)
            protected -= silent.keys()
        if protected:
            for due in self._fleet.due():
                due.let_go(protected)
