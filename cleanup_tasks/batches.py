"""Groups the keys of stale coordinators into batches that an engine can reap in one atomic step."""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from cleanup_tasks import keys

#: Keys in an ordinary batch: 1 to 2 ms of the server's time.
BATCH_KEYS = 1_000
#: Up to here a coordinator (with those that it shares records with) goes whole, in one step of at
#: most about 5 ms; a larger one goes in parts, heartbeats last.
WHOLE_KEYS = 5_000
#: To parse this much of a value takes the server as long as to delete a key; two short ones are free.
BYTES_LIKE_A_KEY = 20
BYTES_FREE = 200


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

    @property
    def size(self) -> int:
        """Number of keys that an engine has to name."""
        judged = len(self.own) + len(self.unseen)
        return sum(map(len, self.own.values())) + len(self.shared) + 2 * judged

    def judged_keys(self, coordinator: bytes) -> tuple[bytes, bytes]:
        """The heartbeat and the activity that decide about a coordinator."""
        heartbeat = keys.heartbeat(coordinator)
        # twice the heartbeat says the same as the heartbeat without an activity
        return heartbeat, heartbeat if coordinator in self.beat_alone else keys.activity(coordinator)

    def guard_keys(self, unseen: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The heartbeats and the activities that would show a sign of life of the unseen."""
        beats, activities = zip(*map(self.judged_keys, unseen), strict=True) if unseen else ((), ())
        return list(beats), list(activities)

    def doomed_keys(self, coordinator: bytes) -> list[bytes]:
        """The keys that go if the coordinator is stale, shared records apart."""
        own = self.own[coordinator]
        return own if self.partial else [*self.judged_keys(coordinator), *own]

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
        groups = list(_components(self.own, self.shared))
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


class Collector:
    """Sorts the related keys that a scan finds to the stale coordinators that own them."""

    def __init__(
        self,
        stale: Iterable[bytes],
        kept: Set[bytes],
        *,
        orphaned: bool = False,
        value_bytes: Mapping[bytes, int] = MappingProxyType({}),
    ) -> None:
        """`stale`: ids to reap, `orphaned` if they have no heartbeat; `kept`: ids whose keys nobody takes.

        `value_bytes`: how long the values are by which an id is judged.
        """
        self._value_bytes = value_bytes
        self._orphaned = orphaned
        self._own: dict[bytes, set[bytes]] = {coordinator: set() for coordinator in stale}
        self._kept = kept
        self._shared: dict[bytes, list[bytes]] = {}
        self._unseen: dict[bytes, set[bytes]] = defaultdict(set)
        #: Those of which a record stays, for somebody kept may own it too.
        self.held: set[bytes] = set()

    def add(self, page: Iterable[tuple[bytes, list[bytes]]]) -> None:
        """Take in keys with their possible owners.

        One that no stale coordinator owns, or somebody kept may own, is dropped.
        """
        stale, kept = self._own, self._kept
        for key, candidates in page:
            if len(candidates) == 1:  # nearly all acks
                own = stale.get(candidates[0])
                if own is not None:
                    own.add(key)
                continue
            owners = [id_ for id_ in candidates if id_ in stale]
            if not kept.isdisjoint(candidates):
                self.held.update(owners)
                continue
            if not owners:
                continue
            if len(owners) == 1:
                stale[owners[0]].add(key)
            else:
                self._shared[key] = owners
            if len(owners) < len(candidates):
                self._unseen[owners[0]].update(id_ for id_ in candidates if id_ not in stale)

    def batches(self) -> Iterator[Batch]:
        """Everything collected, in batches of about `BATCH_KEYS` keys; those that share records together."""
        by_owner: dict[bytes, list[bytes]] = defaultdict(list)
        for key, owners in self._shared.items():
            by_owner[owners[0]].append(key)
        batch, size = Batch(orphaned=self._orphaned), 0
        for members in _components(self._own, self._shared):
            group_size = 0
            for member in members:
                group_size += 3 + len(self._own[member]) + len(by_owner.get(member, ()))
                group_size += 2 * len(self._unseen.get(member, ()))
                group_size += max(0, self._value_bytes.get(member, 0) - BYTES_FREE) // BYTES_LIKE_A_KEY
            if size and size + group_size > BATCH_KEYS:
                yield batch
                batch, size = Batch(orphaned=self._orphaned), 0
            for member in members:
                batch.own[member] = [keys.signal(member), *self._own[member]]
                batch.shared.update((key, self._shared[key]) for key in by_owner.get(member, ()))
                batch.unseen.update(self._unseen.get(member, ()))
            size += group_size
            if group_size > WHOLE_KEYS:
                yield from _parts(batch)
                batch, size = Batch(orphaned=self._orphaned), 0
        if batch.own:
            yield batch


def _components(own: Iterable[bytes], shared: dict[bytes, list[bytes]]) -> Iterator[list[bytes]]:
    """The coordinators in groups that no shared record crosses; in the order of `own`."""
    neighbours: dict[bytes, set[bytes]] = defaultdict(set)
    for owners in shared.values():
        for owner in owners[1:]:
            neighbours[owners[0]].add(owner)
            neighbours[owner].add(owners[0])
    done: set[bytes] = set()
    for start in own:
        if start in done:
            continue
        done.add(start)
        members = [start]
        for member in members:  # grows while it is walked
            fresh = neighbours.get(member, set()) - done
            done |= fresh
            members.extend(fresh)
        yield members


def _parts(group: Batch) -> Iterator[Batch]:
    """A group that is too large for one step: related keys first, heartbeats and activities last."""
    part, size = Batch(partial=True, orphaned=group.orphaned), 0
    related = [(key, [owner]) for owner, own in group.own.items() for key in own]
    for key, owners in [*group.shared.items(), *related]:
        unseen = {id_ for id_ in keys.possible_owners(key) if id_ not in group.own}
        # an upper bound, to not count the part anew with every key
        cost = 1 + 2 * len(owners) + 2 * len(unseen)
        if size and size + cost > BATCH_KEYS:
            yield part
            part, size = Batch(partial=True, orphaned=group.orphaned), 0
        size += cost
        for owner in owners:
            part.own.setdefault(owner, [])
        if len(owners) == 1:
            part.own[owners[0]].append(key)
        else:
            part.shared[key] = owners
        part.unseen |= unseen
    if size:
        yield part
    members = list(group.own)
    for start in range(0, len(members), BATCH_KEYS // 2):
        last = members[start : start + BATCH_KEYS // 2]
        yield Batch(own={member: [] for member in last}, orphaned=group.orphaned)
