"""Everybody that a sweep knows of: who is due, with what goes with them, and who is protected."""

from collections import deque
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import count
from operator import attrgetter

from cleanup_tasks.engines.batch import ABSENT, FIELD, NO_STRING, VALUE, Guards
from cleanup_tasks.rules import keys

#: Stale coordinators that are dealt with before others are looked at again. It bounds the worker's memory,
#: for each is held with its values and its keys. A generation costs one pass over the keyspace.
GENERATION = 200_000
#: Keys that are held for them; where there are more, half of the coordinators wait for the next generation.
MAX_HELD_KEYS = 2_000_000


_numbers = count()
#: What is compared of heartbeat and activity, by whether they are missing.
_KINDS = {
    (False, False): bytes((VALUE, VALUE)),
    (False, True): bytes((VALUE, NO_STRING)),
    (True, False): bytes((ABSENT, VALUE)),
    (True, True): bytes((ABSENT, NO_STRING)),
}


class Due:
    """A coordinator that may go, and what it was judged by."""

    __slots__ = ("guards", "id", "is_orphan", "keys", "number", "records")

    def __init__(
        self, id_: bytes, heartbeat: bytes | None, activity: bytes | None, sighting: bytes | None = None
    ) -> None:
        """Note its values.

        Args:
            id_: its id.
            heartbeat: None where there is no key: it is an orphan, or a party of a message.
            activity: None where there is no string.
            sighting: when an orphan was sighted, in ms; None where that does not matter.
        """
        self.id = id_
        self.is_orphan = heartbeat is None
        #: Its place in the order in which they go: that in which they were judged.
        self.number = next(_numbers)
        #: Acks and records that it owns alone; a scan may find a key twice.
        self.keys: list[bytes] = []
        #: Records that it shares -> the other owners that are due, and the parties without a heartbeat. A
        #: record is held by the first of its owners that goes: it is compared with the values of all of them.
        self.records: dict[bytes, tuple[Sequence[Due], list[bytes]]] = {}
        names = (keys.HEARTBEAT + id_, keys.ACTIVITY + id_)
        kinds = _KINDS[heartbeat is None, activity is None]
        if sighting is None:
            self.guards = Guards(names, kinds, (heartbeat, activity))
        else:
            expected = (heartbeat, activity, sighting)
            self.guards = Guards((*names, keys.SIGHTINGS), kinds + bytes((FIELD,)), expected, (id_,))

    def let_go(self, coordinators: AbstractSet[bytes]) -> None:
        """Hold no record any more that one of these owns too."""
        self.records = {
            record: (others, absent)
            for record, (others, absent) in self.records.items()
            if coordinators.isdisjoint(absent) and coordinators.isdisjoint(other.id for other in others)
        }


class Fleet:
    """The coordinators that a sweep knows, by id."""

    def __init__(self) -> None:
        """Nobody yet."""
        #: id -> what is known of a coordinator that is due; None for one that is protected, or was due in
        #: another generation.
        self.coordinators: dict[bytes, Due | None] = {}
        #: How many segments the ids have, see `keys.owners`.
        self.lengths: set[int] = set()
        #: The latest time of the server, in ms, at which one of those that are due now was judged.
        self.judged_at_ms = 0
        #: Stale ids whose values were not held, for a later generation.
        self._later: deque[bytes] = deque()
        self._due = 0
        #: Ids that were due in a generation that is over, and went.
        self.gone: set[bytes] = set()

    def protect(self, coordinators: Iterable[bytes]) -> None:
        """Note some whose keys stay."""
        for id_ in coordinators:
            self._add(id_, None)

    def add_due(self, due: Due, now_ms: int) -> None:
        """Note one that may go; beyond a generation's size it waits, and nothing of it is held."""
        if self._due >= GENERATION:
            self._later.append(due.id)
            self._add(due.id, None)
            return
        self._due += 1
        self.judged_at_ms = max(self.judged_at_ms, now_ms)
        self._add(due.id, due)

    def due(self) -> list[Due]:
        """Those that may go now, in the order in which they go."""
        return sorted(filter(None, self.coordinators.values()), key=attrgetter("number"))

    def shrink(self) -> None:
        """Let half of those that are due wait for a later generation, and hold nothing of what is theirs."""
        due = self.due()
        half = (len(due) + 1) // 2
        waiting = {one.id: None for one in due[half:]}
        self._later.extendleft(reversed(waiting))
        self.coordinators.update(waiting)
        for one in due[:half]:
            one.let_go(waiting.keys())

    def end_generation(self, kept: set[bytes]) -> list[bytes]:
        """Forget what was held; returns the ids of the next generation, which are to be judged again.

        Args:
            kept: those that were due and stayed.
        """
        if not self._later:
            return []
        for due in self.due():
            self.coordinators[due.id] = None
            if due.id not in kept:
                self.gone.add(due.id)
        self._due = 0
        return [self._later.popleft() for _ in range(min(len(self._later), GENERATION))]

    def _add(self, id_: bytes, due: Due | None) -> None:
        self.coordinators[id_] = due
        self.lengths.add(keys.segments_of(id_))
