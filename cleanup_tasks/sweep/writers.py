"""Those who look dead and were seen to write: they live, and their clock or the servers' is wrong.

What is noted of somebody is compared with what is there at each later sweep. Who has written something since
is protected, until nothing has changed any more for as long as the threshold.
"""

import heapq
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter

from cleanup_tasks.rules.staleness import times_of
from cleanup_tasks.sweep.fleet import Due, Fleet
from cleanup_tasks.sweep.notes import Note, Trace, digest

#: Of how many it is noted what they wrote; the note takes less than 500 kB then.
MAX_NOTED = 10_000


class Writers:
    """Those of a fleet who were seen to write, by a note."""

    def __init__(self, fleet: Fleet, note: Note, threshold_s: int) -> None:
        """`threshold_s`: after so many seconds without a change somebody is judged as anybody."""
        self._fleet = fleet
        self._note = note
        self._threshold_s = threshold_s

    def note_changed(self, now_ms: int) -> list[Due]:
        """Note anew who has written something since the note was made, and return them."""
        if not self._note.traces:
            return []
        changed = [due for due in self._fleet.due() if self._differs(due.id, *due.values)]
        self.add(changed, now_ms)
        return changed

    def add(self, coordinators: Iterable[Due], now_ms: int) -> None:
        """Note that these have written something."""
        for due in coordinators:
            heartbeat, activity = map(digest, due.values)
            self._note.traces[digest(due.id)] = Trace(heartbeat, activity, now_ms)

    def living(self, now_ms: int) -> list[Due]:
        """Those who are due and have written something within the threshold, as far as sweeps have seen."""
        if not self._note.traces:
            return []
        return [
            due
            for due in self._fleet.due()
            if (trace := self._note.traces.get(digest(due.id))) and self._is_recent(trace, now_ms)
        ]

    def written_ahead(self) -> int:
        """How many of those whose heartbeats are ahead of the servers' clock have written them anew."""
        return sum(self._differs(id_, heartbeat, b"") for id_, heartbeat in self._fleet.ahead.items())

    def are_others(self) -> bool:
        """Whether nobody of those who are due was noted."""
        traces = self._note.traces
        return bool(traces) and not any(digest(due.id) in traces for due in self._fleet.due())

    def note_all(self, now_ms: int) -> None:
        """Note what those who look dead have written, of the latest `MAX_NOTED`."""
        due = self._fleet.due()
        latest = heapq.nlargest(MAX_NOTED, zip(written_at(due, now_ms), due, strict=True), key=itemgetter(0))
        signs = [(id_, heartbeat, b"") for id_, heartbeat in self._fleet.ahead.items()]
        signs += [(one.id, *one.values) for _time_ms, one in latest]
        traces = {
            digest(id_): Trace(digest(heartbeat), digest(activity)) for id_, heartbeat, activity in signs
        }
        written = {name: trace for name, trace in self._note.traces.items() if trace.written_ms}
        self._note.traces = dict(islice((written | {**traces, **written}).items(), MAX_NOTED))

    def forget_others(self, now_ms: int) -> None:
        """Forget all who have not written anything within the threshold."""
        traces = self._note.traces
        self._note.traces = {name: trace for name, trace in traces.items() if self._is_recent(trace, now_ms)}

    def _differs(self, id_: bytes, heartbeat: bytes, activity: bytes) -> bool:
        """Whether something was written since it was noted; what has expired was not."""
        trace = self._note.traces.get(digest(id_))
        return trace is not None and (
            digest(heartbeat) not in (b"", trace.heartbeat) or digest(activity) not in (b"", trace.activity)
        )

    def _is_recent(self, trace: Trace, now_ms: int) -> bool:
        return bool(trace.written_ms) and now_ms < trace.written_ms + 1000 * self._threshold_s


def written_at(coordinators: Iterable[Due], now_ms: int) -> list[float]:
    """The time in ms that each heartbeat says, or the activity where there is none; 0 where none is known."""
    values = [due.heartbeat or due.activity for due in coordinators]
    return [time or 0 for time in times_of(values, now_ms)]
