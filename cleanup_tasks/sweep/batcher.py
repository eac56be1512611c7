"""Cuts what is held for coordinators that are due into batches for an engine."""

from collections.abc import Container, Iterable, Iterator, Mapping

from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.pipelining import chunks
from cleanup_tasks.sweep.fleet import Due, Fleet

#: Keys that a coordinator owns alone and that go in one atomic step with its heartbeat; more go in parts. It
#: takes a server at most about 5 ms to delete so many.
WHOLE_KEYS = 5_000


class Joined(tuple[Due]):
    """The subject of a group that is a coordinator's last, and holds records that others have owned too."""

    __slots__ = ()


class Batcher:
    """Makes batches: for each coordinator the records that it holds, then its last group with all its own.

    A record is a group of its own, or in the last group of its holder if its other owners have gone. A
    heartbeat is never ahead of what its coordinator holds. The subject of a coordinator's last group is the
    `Due` itself, or `Joined`; that of any other group is a tuple of its owners.
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
        joins: bool = True,
    ) -> None:
        """Batches of about `batch_keys` keys and guards.

        Args:
            fleet: where the coordinators come from.
            absent: parties of records that have no heartbeat -> their activity.
            batch_keys: keys and guards in an ordinary batch.
            dry_run: nothing is to be deleted.
            keep_heartbeats: heartbeats and activities stay, for not all that belongs to them was seen.
            blocked: coordinators of which a step was given up; nothing more goes of what is theirs alone. The
                set may grow while batches are made.
            joins: whether a coordinator may go in one group with records whose other owners have gone.
        """
        self._fleet = fleet
        self._absent = absent
        self._batch_keys = batch_keys
        self._dry_run = dry_run
        self._keep_heartbeats = keep_heartbeats
        self._blocked = blocked
        self._joins = joins and not keep_heartbeats
        #: Keys, and other owners of records, in a group where both are.
        self._most_joined = min(batch_keys, WHOLE_KEYS)
        self._batch = self._new_batch()
        #: id -> the numbers of its guards in the batch.
        self._guards: dict[bytes, tuple[int, ...]] = {}
        #: What became of all coordinators up to this number is known.
        self._answered = -1

    def batches(self, coordinators: Iterable[Due]) -> Iterator[Batch | None]:
        """All that is held for these; None: what comes next depends on how all before has ended."""
        for due in coordinators:
            if self._batch.load >= self._batch_keys:
                yield self._cut()
            if due.id in self._blocked:
                yield from self._shared(due, ())  # or they would be left when the other owners have gone
                continue
            is_split = False
            joined, others = self._joined(due)
            if len(joined) < len(due.records):
                if self._awaits_others(due):
                    if self._batch.subjects:
                        yield self._cut()
                    yield None
                    self._answered = due.number - 1
                    joined, others = self._joined(due)
                for batch in self._shared(due, joined):
                    is_split = True
                    yield batch
            own = [*joined, *dict.fromkeys(due.keys)]
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
            self._add_own(due, own, others)
        if self._batch.subjects:
            yield self._cut()

    def _awaits_others(self, due: Due) -> bool:
        """Whether owners of its records are before it, and it is not known yet whether they have gone."""
        if self._dry_run:
            return False
        for others, _ in due.records.values():
            for other in others:
                if not other.has_gone and self._answered < other.number < due.number:
                    return True
        return False

    def _joined(self, due: Due) -> tuple[list[bytes], dict[bytes, Due]]:
        """The records that go in one group with their coordinator, and their other owners by id.

        They are none where all of it is too much for one step: each of its parts would need all guards.
        """
        joined: list[bytes] = []
        joined_others: dict[bytes, Due] = {}
        if not self._joins or len(due.records) + len(due.keys) > self._most_joined:
            return joined, joined_others
        for record, (others, absent) in due.records.items():
            for other in others:
                if not other.has_gone:
                    break
            else:
                if not absent:
                    joined.append(record)
                    for other in others:
                        joined_others[other.id] = other
        return (joined, joined_others) if len(joined_others) <= self._most_joined else ([], {})

    def _shared(self, due: Due, joined: Container[bytes]) -> Iterator[Batch]:
        """Add the records that a coordinator holds; gives the batches that are full meanwhile."""
        for record, (others, absent) in due.records.items():
            if record in joined:
                continue
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
        for part in chunks(own, self._batch_keys):
            self._batch.add_group(self._guards_of(due), part, (due,))
            yield self._cut()

    def _add_own(self, due: Due, own: list[bytes], others: Mapping[bytes, Due]) -> None:
        """The last group of a coordinator: what is its own, and the heartbeat as the last of it."""
        guards = self._guards_of(due)
        for id_, other in others.items():
            guards += self._guards.get(id_) or self._guards_of(other)
        if self._keep_heartbeats:
            own += [family + due.id for family in keys.WHOLE_ID if family != keys.ACTIVITY]
            self._batch.add_group(guards, own, (due,))
            return
        for family in keys.WHOLE_ID:
            own.append(family + due.id)
        if not due.is_orphan:
            own.append(keys.heartbeat(due.id))
        self._batch.add_group(guards, own, Joined((due,)) if others else due)

    def _new_batch(self) -> Batch:
        return Batch(self._fleet.judged_at_ms, self._dry_run)

    def _cut(self) -> Batch:
        batch, self._batch = self._batch, self._new_batch()
        self._guards = {}
        return batch

    def _guards_of(self, due: Due) -> tuple[int, ...]:
        """The numbers of a coordinator's guards, which are added to the batch if they are not there yet."""
        guards = self._guards.get(due.id)
        if guards is not None:
            return guards
        batch, heartbeat, activity = self._batch, keys.HEARTBEAT + due.id, keys.ACTIVITY + due.id
        if due.has_gone:
            guards = batch.add_absent((heartbeat, activity))
        elif due.heartbeat is not None:
            guards = batch.add_values((heartbeat, activity), (due.heartbeat, due.activity))
        else:
            guards = batch.add_absent((heartbeat,)) + batch.add_values((activity,), (due.activity,))
            if due.sighting is not None:
                guards += (batch.add_field(keys.SIGHTINGS, due.id, due.sighting),)
        self._guards[due.id] = guards
        return guards

    def _guards_of_absent(self, id_: bytes) -> tuple[int, ...]:
        if self._dry_run and id_ in self._fleet.gone:
            return ()  # a real sweep would have deleted what it is judged by
        return self._guards_of(Due(id_, None, self._absent[id_]))
