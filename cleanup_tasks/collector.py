"""Sorts related keys to the stale coordinators that own them, and cuts batches of them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from types import MappingProxyType

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch, Snapshot, components

#: Up to here a coordinator (with those that it shares records with) goes whole, in one step of at
#: most about 5 ms; a larger one goes in parts, heartbeats last.
WHOLE_KEYS = 5_000
#: To parse this much of a value takes the server as long as to delete a key.
BYTES_LIKE_A_KEY = 20


class Collector:
    """Takes in the keys that a scan finds, and gives them out in batches."""

    def __init__(
        self,
        stale: Iterable[bytes],
        kept: Set[bytes],
        batch_keys: int,
        *,
        orphaned: bool = False,
        long_values: Mapping[bytes, int] = MappingProxyType({}),
        snapshot: Snapshot | None = None,
        gone: Set[bytes] = frozenset(),
    ) -> None:
        """`stale`: ids to reap, `orphaned` if they have no heartbeat; `kept`: ids whose keys nobody takes.

        `batch_keys`: keys in an ordinary batch; `long_values`: bytes of the values by which an id is
        judged, where they are many; `snapshot`: those values; `gone`: ids that a dry run thinks of as reaped.
        """
        self._long_values = long_values
        #: What all batches have in common.
        self._empty = Batch(orphaned=orphaned, snapshot=snapshot or Snapshot())
        self._own: dict[bytes, list[bytes]] = {coordinator: [] for coordinator in stale}
        self._kept = kept
        self._batch_keys = batch_keys
        self._gone = gone
        self._shared: dict[bytes, list[bytes]] = {}
        self._unseen: dict[bytes, list[bytes]] = defaultdict(list)
        #: Those of which a record stays, for somebody kept may own it too.
        self.held: set[bytes] = set()

    def add(self, page: Iterable[tuple[bytes, list[bytes]]]) -> None:
        """Take in keys with their possible owners; a key may come twice.

        One that no stale coordinator owns, or somebody kept may own, is dropped.
        """
        stale, kept = self._own, self._kept
        for key, candidates in page:
            if len(candidates) == 1:  # nearly all acks
                own = stale.get(candidates[0])
                if own is not None:
                    own.append(key)
                continue
            owners: list[bytes] = []
            others: list[bytes] = []
            for id_ in candidates:
                (owners if id_ in stale else others).append(id_)
            if not owners:
                continue
            if not kept.isdisjoint(others):
                self.held.update(owners)
                continue
            if len(owners) == 1:
                stale[owners[0]].append(key)
            else:
                self._shared[key] = owners
            if others:
                self._unseen[owners[0]] += [id_ for id_ in others if id_ not in self._gone]

    def batches(self) -> Iterator[Batch]:
        """Everything collected, in batches of about `batch_keys` keys; those that share records together."""
        shared_by: dict[bytes, list[bytes]] = defaultdict(list)
        for key, owners in self._shared.items():
            shared_by[owners[0]].append(key)
        batch, size = self._empty.fresh(), 0
        for members in components(self._own, self._shared):
            group_size = 0
            for member in members:
                group_size += 3 + len(self._own[member])
                if member in self._unseen:
                    group_size += 2 * len(self._unseen[member])
                if member in shared_by:
                    group_size += len(shared_by[member])
                if member in self._long_values:
                    group_size += self._long_values[member] // BYTES_LIKE_A_KEY
            if size and size + group_size > self._batch_keys:
                yield batch
                batch, size = self._empty.fresh(), 0
            for member in members:
                # without those that the scan found twice
                batch.own[member] = [keys.signal(member), *dict.fromkeys(self._own[member])]
                if member in self._unseen:
                    batch.unseen.update(self._unseen[member])
                if member in shared_by:
                    batch.shared.update((key, self._shared[key]) for key in shared_by[member])
            size += group_size
            if group_size > WHOLE_KEYS:
                yield from _parts(batch, self._batch_keys)
                batch, size = self._empty.fresh(), 0
        if batch.own:
            yield batch


def _parts(group: Batch, batch_keys: int) -> Iterator[Batch]:
    """A group that is too large for one step: related keys first, heartbeats and activities last."""
    part, size = group.fresh(partial=True), 0
    related = [(key, [owner]) for owner, own in group.own.items() for key in own]
    for key, owners in [*group.shared.items(), *related]:
        unseen = group.unseen.intersection(keys.possible_owners(key))
        # an upper bound, to not count the part anew with every key
        cost = 1 + 2 * len(owners) + 2 * len(unseen)
        if size and size + cost > batch_keys:
            yield part
            part, size = group.fresh(partial=True), 0
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
    for start in range(0, len(members), batch_keys // 2):
        last = group.fresh()
        last.own = {member: [] for member in members[start : start + batch_keys // 2]}
        yield last
