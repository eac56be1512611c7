"""What an engine judges and reaps in one atomic step."""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cleanup_tasks import keys


@dataclass(slots=True)
class Snapshot:
    """Values by which coordinators were found stale, and which can't say anything else at a later time.

    So whoever still has them is stale.
    """

    #: The latest time of the server at which one of them was judged.
    at_ms: int = 0
    #: id -> heartbeat and activity; the latter is empty where there is none.
    values: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)

    def add(self, now_ms: int, values: Mapping[bytes, tuple[bytes, bytes]]) -> None:
        """Note some that were judged at `now_ms`."""
        self.at_ms = max(self.at_ms, now_ms)
        self.values.update(values)

    def of(self, coordinators: Iterable[bytes]) -> list[bytes] | None:
        """All their heartbeats and then all their activities; None where one was not noted."""
        try:
            pairs = [self.values[id_] for id_ in coordinators]
        except KeyError:
            return None
        return [beat for beat, _ in pairs] + [activity for _, activity in pairs]

    def lines_of(self, coordinators: Iterable[bytes]) -> bytes | None:
        """The same, a line each; None where one has lines itself."""
        values = self.of(coordinators)
        lines = b"\n".join(values or ())
        return lines if values and lines.count(b"\n") == len(values) - 1 else None


@dataclass(slots=True)
class Batch:
    """Coordinators to judge, and what goes with them if they are still stale."""

    #: id -> its own related keys (signal, acks, records). Its heartbeat and activity go without saying.
    own: dict[bytes, list[bytes]] = field(default_factory=dict)
    #: record -> its owners, all of them in `own`; it goes only if every one of them is stale.
    shared: dict[bytes, list[bytes]] = field(default_factory=dict)
    #: Ids that may own one of these keys and had no heartbeat when the sweep looked. If one has a
    #: heartbeat by now, or a fresh activity, nothing of the batch is touched.
    unseen: set[bytes] = field(default_factory=set)
    #: Heartbeats and activities stay: this is a part of a large coordinator, and more follow.
    partial: bool = False
    #: The coordinators have no heartbeat, and must have none.
    orphaned: bool = False
    #: Ids to judge by the heartbeat alone, for their activity is in another slot of a cluster.
    beat_alone: set[bytes] = field(default_factory=set)
    #: What spares the engine to judge again whoever has not changed since.
    snapshot: Snapshot = field(default_factory=Snapshot)

    @property
    def size(self) -> int:
        """Number of keys that an engine has to name."""
        judged = len(self.own) + len(self.unseen)
        return sum(map(len, self.own.values())) + len(self.shared) + 2 * judged

    @property
    def is_alone(self) -> bool:
        """Whether nothing else may be under way meanwhile.

        What comes after a part must know how that ended, and orphans' notes are one key for all.
        """
        return self.partial or self.orphaned

    def fresh(self, *, partial: bool = False) -> "Batch":
        """An empty batch for coordinators of the same kind."""
        return Batch(partial=partial, orphaned=self.orphaned, snapshot=self.snapshot)

    def judged_keys(self, coordinators: Collection[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The heartbeats and the activities that decide about coordinators, or about the unseen."""
        beats = list(map(keys.heartbeat, coordinators))
        if not self.beat_alone:
            return beats, list(map(keys.activity, coordinators))
        # twice the heartbeat says the same as the heartbeat without an activity
        return beats, [
            (keys.heartbeat if id_ in self.beat_alone else keys.activity)(id_) for id_ in coordinators
        ]

    def without(self, newcomers: Container[bytes]) -> "Batch":
        """The batch less the keys that one of the newcomers may own, and less the newcomers as unseen."""
        return replace(
            self,
            own={
                coordinator: [key for key in own if not _owned_by(key, newcomers)]
                for coordinator, own in self.own.items()
            },
            shared={key: owners for key, owners in self.shared.items() if not _owned_by(key, newcomers)},
            unseen={id_ for id_ in self.unseen if id_ not in newcomers},
        )

    def owners_beside(self, others: Container[bytes]) -> set[bytes]:
        """The coordinators of a key that one of the others may own too."""
        owned = [(key, [id_]) for id_, own in self.own.items() for key in own]
        both = [*owned, *self.shared.items()]
        return {id_ for key, owners in both if _owned_by(key, others) for id_ in owners}

    def halves(self) -> tuple["Batch", "Batch"] | None:
        """The batch in two, or None where records that are shared, or a lone coordinator, forbid it."""
        groups = list(components(self.own, self.shared))
        if len(groups) < 2:
            return None
        first = {id_ for group in groups[: len(groups) // 2] for id_ in group}
        return self.of(first), self.of(self.own.keys() - first)

    def of(self, members: Container[bytes]) -> "Batch":
        """The batch less the other coordinators, and less the records that any of them shares."""
        return replace(
            self,
            own={id_: own for id_, own in self.own.items() if id_ in members},
            shared={
                key: owners for key, owners in self.shared.items() if all(id_ in members for id_ in owners)
            },
        )


def _owned_by(key: bytes, ids: Container[bytes]) -> bool:
    return any(owner in ids for owner in keys.possible_owners(key))


def components(own: Iterable[bytes], shared: Mapping[bytes, list[bytes]]) -> Iterator[list[bytes]]:
    """The coordinators in groups that no shared record crosses; in the order of `own`."""
    neighbours: dict[bytes, set[bytes]] = defaultdict(set)
    for owners in shared.values():
        for owner in owners[1:]:
            neighbours[owners[0]].add(owner)
            neighbours[owner].add(owners[0])
    done: set[bytes] = set()
    for start in own:
        if start not in neighbours:
            yield [start]
        elif start not in done:
            done.add(start)
            members = [start]
            for member in members:  # grows while it is walked
                fresh = neighbours[member] - done
                done |= fresh
                members.extend(fresh)
            yield members
