"""Everybody that a sweep knows of: who is due, with what goes with them, and who is protected."""

from bisect import bisect
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate, count, islice
from operator import attrgetter

from cleanup_tasks.rules import keys

#: Bytes of memory that a generation takes at most: the stale coordinators that are dealt with before others
#: are looked at again, each with the values by which it was judged. A generation costs one pass over the
#: keyspace.
MAX_COORDINATOR_BYTES = 350_000_000
#: Bytes of memory that their keys take at most; beyond, half of them wait for the next generation.
MAX_KEY_BYTES = 250_000_000
#: Coordinators that are looked at again for a generation, where it is not known that more fit into it.
MIN_JUDGED_AGAIN = 10_000
#: Keys and guards that a coordinator has at least: heartbeat and activity, each as both, and signal.
LEAST_LOAD = 5
#: Coordinators whose heartbeats are ahead that are remembered.
MAX_AHEAD = 100
#: What CPython 3.11 takes for each, besides its name and its values; measured with tracemalloc.
DUE_BYTES, KEY_BYTES, RECORD_BYTES = 450, 45, 330


_numbers = count()


class Due:
    """A coordinator that may go, and what it was judged by."""

    __slots__ = (
        "activity",
        "has_gone",
        "heartbeat",
        "id",
        "is_orphan",
        "keys",
        "number",
        "records",
        "sighting",
    )

    def __init__(
        self, id_: bytes, heartbeat: bytes | None, activity: bytes, sighting: bytes | None = None
    ) -> None:
        """Note its values.

        Args:
            id_: its id.
            heartbeat: None where there is no key: it is an orphan, or a party of a message.
            activity: what was read of it, empty where there is none.
            sighting: when an orphan was sighted, in ms; None where that does not matter.
        """
        self.id = id_
        self.heartbeat = heartbeat
        self.activity = activity
        self.sighting = sighting
        self.is_orphan = heartbeat is None
        #: Its place in the order in which they go: that in which they were judged.
        self.number = next(_numbers)
        #: Acks and records that it owns alone; a scan may find a key twice.
        self.keys: list[bytes] = []
        #: Records that it shares -> the other owners that are due, and the parties without a heartbeat. See
        #: `Collector` for which of its owners holds a record.
        self.records: dict[bytes, tuple[Sequence[Due], Sequence[bytes]]] = {}
        #: Whether it was deleted.
        self.has_gone = False

    @property
    def values(self) -> tuple[bytes, bytes]:
        """Its heartbeat and its activity, empty where there is none."""
        return self.heartbeat or b"", self.activity

    @property
    def held_bytes(self) -> int:
        """About what it takes of the worker's memory, without its keys."""
        return DUE_BYTES + len(self.id) + len(self.heartbeat or b"") + len(self.activity)

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
        self._held_bytes = 0
        #: Ids that were due in a generation that is over, and went.
        self.gone: set[bytes] = set()
        #: How many gave a sign of life within nine tenths of the threshold, by a clock that is right.
        self.lively = 0
        #: How many are silent for more than nine tenths of it, and active still.
        self.fading = 0
        #: Some whose heartbeats are far ahead, with these: only their change is a sign of life.
        self.ahead: dict[bytes, bytes] = {}

    def protect(self, coordinators: Collection[bytes]) -> None:
        """Note some whose keys stay."""
        self._note(dict.fromkeys(coordinators))

    def add_ahead(self, heartbeats: Mapping[bytes, bytes]) -> None:
        """Remember some ids whose heartbeats are far ahead, with these."""
        self.ahead.update(islice(heartbeats.items(), MAX_AHEAD - len(self.ahead)))

    def add_stale(self, coordinators: Sequence[Due], now_ms: int) -> None:
        """Note stale ones that may go; beyond what a generation takes they wait, and nothing of them is held.

        Args:
            coordinators: in the order in which they go.
            now_ms: the server's time at which they were judged.
        """
        is_first = not self._held_bytes
        held = list(accumulate((due.held_bytes for due in coordinators), initial=self._held_bytes))
        self._held_bytes = held[-1]  # once one waits, so do all that come after it
        room = max(bisect(held, MAX_COORDINATOR_BYTES) - 1, int(is_first))
        self.add_due(coordinators[:room], now_ms)
        waiting = [due.id for due in coordinators[room:]]
        self._note(dict.fromkeys(waiting))
        self._later.extend(waiting)

    def add_due(self, coordinators: Sequence[Due], now_ms: int) -> None:
        """Note some that may go now, however many there are: orphans have a limit of their own."""
        self._note({due.id: due for due in coordinators})
        self.judged_at_ms = max(self.judged_at_ms, now_ms)

    def _note(self, coordinators: Mapping[bytes, Due | None]) -> None:
        self.coordinators.update(coordinators)
        self.lengths.update({keys.segments_of(id_) for id_ in coordinators})

    def leave_out(self, coordinators: Iterable[bytes]) -> None:
        """Forget some, of whom nothing is there."""
        for id_ in coordinators:
            del self.coordinators[id_]

    def due(self) -> list[Due]:
        """Those that may go now, in the order in which they go."""
        return sorted(filter(None, self.coordinators.values()), key=attrgetter("number"))

    def shrink(self) -> None:
        """Let half of the stale wait for a later generation, and hold nothing of what is theirs."""
        due = [one for one in self.due() if not one.is_orphan]
        half = (len(due) + 1) // 2
        waiting = {one.id: None for one in due[half:]}
        self._later.extendleft(reversed(waiting))
        self.coordinators.update(waiting)
        for one in self.due():
            one.let_go(waiting.keys())

    def end_generation(self, kept: set[bytes]) -> list[bytes]:
        """Forget what was held; returns the ids of the next generation, which are to be judged again.

        Args:
            kept: those that were due and stayed.
        """
        if not self._later:
            return []
        over = self.due()
        self.coordinators.update({due.id: None for due in over})
        self.gone.update({due.id for due in over} - kept)
        self._held_bytes = 0
        number = min(len(self._later), max(len(over), MIN_JUDGED_AGAIN))
        return [self._later.popleft() for _ in range(number)]
