"""Cuts what is held for coordinators that are due into batches for an engine."""

from collections.abc import Container, Iterable, Iterator, Mapping

from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.rules import keys
from cleanup_tasks.sweep.fleet import Due, Fleet

#: Keys that a coordinator owns alone and that go in one atomic step with its heartbeat; more go in parts. It
#: takes a server at most about 5 ms to delete so many.
WHOLE_KEYS = 5_000


class Batcher:
    """Makes batches: for each coordinator the records that it holds, a group each, then all that is its own.

    A record is never behind one of its owners' heartbeats, and a heartbeat never ahead of a part. The subject
    of a coordinator's last group is the `Due` itself; that of any other group is a tuple of its owners.
    """

    def __init__(
        self,
        fleet: Fleet,
        absent: Mapping[bytes, bytes],
        batch_keys: int,
        *,
        dry_run: bool,
        keep_heartbeats: bool,
        blocked: Container[bytes],
    ) -> None:
        """Batches of about `batch_keys` keys and guards.

        Args:
            fleet: where the coordinators come from.
            absent: parties of records that have no heartbeat -> their activity.
            batch_keys: keys and guards in an ordinary batch.
            dry_run: nothing is to be deleted.
            keep_heartbeats: heartbeats and activities stay, for not all that belongs to them was seen.
            blocked: coordinators of which a step was given up; nothing more of theirs is deleted. The set may
                grow while batches are made.
        """
        self._fleet = fleet
        self._absent = absent
        self._batch_keys = batch_keys
        self._dry_run = dry_run
        self._keep_heartbeats = keep_heartbeats
        self._blocked = blocked
        self._batch = self._new_batch()
        #: id -> the numbers of its guards in the batch.
        self._guards: dict[bytes, tuple[int, ...]] = {}

    def batches(self, coordinators: Iterable[Due]) -> Iterator[Batch | None]:
        """All that is held for these; None: what comes next depends on how all before has ended."""
        for due in coordinators:
            if self._batch.load >= self._batch_keys:
                yield self._cut()
            if due.id in self._blocked:
                continue
            is_split = False
            for batch in self._shared(due):
                is_split = True
                yield batch
            own = list(dict.fromkeys(due.keys))
            if len(own) > self._batch_keys and self._batch.subjects:
                yield self._cut()
                is_split = is_split or bool(due.records)
            if len(own) > WHOLE_KEYS:
                is_split = True
                yield from self._parts(due, own)
                own = []
            if is_split:
                if self._batch.subjects:
                    yield self._cut()
                yield None
                if due.id in self._blocked:
                    continue
            self._add_own(due, own)
        if self._batch.subjects:
            yield self._cut()

    def _shared(self, due: Due) -> Iterator[Batch]:
        """Add the records that a coordinator holds; gives the batches that are full meanwhile."""
        for record, (others, absent) in due.records.items():
            if self._batch.load >= 2 * self._batch_keys:
                yield self._cut()
            guards = self._guards_of(due)
            for other in others:
                guards += self._guards.get(other.id) or self._guards_of(other)
            for id_ in absent:
                guards += self._guards_of_absent(id_)
            self._batch.add_group(guards, (record,), (due, *others))

    def _parts(self, due: Due, own: list[bytes]) -> Iterator[Batch]:
        """A batch for each part of what is too much for one step."""
        for start in range(0, len(own), self._batch_keys):
            self._batch.add_group(self._guards_of(due), own[start : start + self._batch_keys], (due,))
            yield self._cut()

    def _add_own(self, due: Due, own: list[bytes]) -> None:
        """The last group of a coordinator: what is its own, and the heartbeat as the last of it."""
        if self._keep_heartbeats:
            own.append(keys.signal(due.id))
            self._batch.add_group(self._guards_of(due), own, (due,))
            return
        own += [family + due.id for family in keys.WHOLE_ID]
        if not due.is_orphan:
            own.append(keys.heartbeat(due.id))
        self._batch.add_group(self._guards_of(due), own, due)

    def _new_batch(self) -> Batch:
        return Batch(self._fleet.judged_at_ms, self._dry_run)

    def _cut(self) -> Batch:
        batch, self._batch = self._batch, self._new_batch()
        self._guards = {}
        return batch

    def _guards_of(self, due: Due) -> tuple[int, ...]:
        """The numbers of a coordinator's guards, which are added to the batch if they are not there yet."""
        guards = self._guards.get(due.id)
        if guards is None:
            guards = self._guards[due.id] = self._batch.add_guards(due.guards)
        return guards

    def _guards_of_absent(self, id_: bytes) -> tuple[int, ...]:
        if self._dry_run and id_ in self._fleet.gone:
            return ()  # a real sweep would have deleted what it is judged by
        return self._guards_of(Due(id_, None, self._absent[id_]))
