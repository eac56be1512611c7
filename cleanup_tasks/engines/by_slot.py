"""A batch that is taken apart by the slots of a cluster."""

from collections.abc import Callable, Iterable, Iterator

from cleanup_tasks.engines.batch import Answer, Batch

#: What one step may cost its server, in deletions of a key; where a slot holds more, it takes several steps.
STEP_LOAD = 1_000


class BySlot:
    """A batch, and what becomes of its groups.

    Keys of a group in the slot of its last key go in a step of that slot, in which they are compared with the
    guards that are there too; other keys go apart, before.
    """

    def __init__(self, batch: Batch, slot_of: Callable[[bytes], int]) -> None:
        """`slot_of` says in which slot a key is."""
        self.batch = batch
        #: Keys that the servers said they deleted.
        self.deleted = 0
        #: What makes it useless to go on.
        self.error: Exception | None = None
        self._slot_of = slot_of
        #: number of a guard -> its key.
        self._guarded = dict(zip(batch.numbers(), batch.guarded(), strict=True))
        self._keys = batch.group_keys()
        self._kept: set[int] = set()
        self._failed: set[int] = set()
        #: Guards that a group that failed depends on.
        self._doubtful: set[int] = set()
        #: The groups whose step is not done -> its slot, guards there, keys there.
        self._together: dict[int, tuple[int, list[int], list[bytes]]] = {}

    def keep(self, groups: Iterable[int]) -> None:
        """Note groups of which a guard has changed."""
        self._kept.update(groups)

    def fail(self, groups: Iterable[int]) -> None:
        """Note groups of which a part could not be done: no guard of theirs is deleted any more."""
        for number in groups:
            self._failed.add(number)
            self._together.pop(number, None)
            self._doubtful.update(self.batch.group_guards[number])

    def add(self, step: Batch, answer: Answer) -> None:
        """Note what a step did; its subjects are the groups' numbers."""
        self.deleted += answer.deleted
        for number in step.subjects:
            del self._together[number]
        self.keep(step.subjects[number] for number in answer.kept)
        self.fail(step.subjects[number] for number in answer.failed)

    def apart(self) -> tuple[list[bytes], list[int]]:
        """The keys that are in no step, and the group of each."""
        doomed: list[bytes] = []
        groups: list[int] = []
        for number in self._going(range(len(self._keys))):
            slot, guards = self._step_of(number)
            together: list[bytes] = []
            for key in self._keys[number]:
                (together if self._slot_of(key) == slot else doomed).append(key)
            groups += [number] * (len(doomed) - len(groups))
            if slot is not None:
                self._together[number] = slot, guards, together
        return doomed, groups

    def next_steps(self) -> dict[int, Batch]:
        """For each slot the next step that is not done yet; its subjects are the numbers of the groups."""
        steps: dict[int, Batch] = {}
        copies: dict[int, int] = {}
        for number in self._going(self._together):
            slot, guards, keys = self._together[number]
            if slot not in steps:
                steps[slot] = Batch(self.batch.judged_at_ms, self.batch.dry_run)
            step = steps[slot]
            if step.load >= STEP_LOAD:
                continue
            for guard in guards:
                if guard not in copies:
                    copies[guard] = step.copy_guard(guard, self.batch)
            step.add_group(tuple(copies[guard] for guard in guards), keys, number)
        return steps

    def answer(self) -> Answer:
        """All of it."""
        return Answer(self.deleted, sorted(self._kept), sorted(self._failed - self._kept), self.error)

    def _going(self, groups: Iterable[int]) -> Iterator[int]:
        """Those of the groups that were not kept, and delete no guard that a group that failed depends on."""
        for number in list(groups):
            if number in self._kept or number in self._failed:
                continue
            guards = self.batch.group_guards[number]
            if not self._doubtful.isdisjoint(guards) and self._deletes_a_guard(number):
                self.fail([number])
            else:
                yield number

    def _deletes_a_guard(self, number: int) -> bool:
        """Whether a group is a coordinator's last: whatever else depends on its guards has to go before."""
        key = self._keys[number][-1]
        return any(self._guarded[guard] == key for guard in self.batch.group_guards[number])

    def _step_of(self, number: int) -> tuple[int | None, list[int]]:
        """The slot of a group's step, and the guards that are there; None: the group has no step.

        The slot is that of the last key, if that is a guard itself or all guards are there too. Other guards
        may be deleted apart, so that they would seem to have changed.
        """
        key, guards = self._keys[number][-1], self.batch.group_guards[number]
        slot = self._slot_of(key)
        there = [guard for guard in guards if self._slot_of(self._guarded[guard]) == slot]
        if there and (len(there) == len(guards) or self._deletes_a_guard(number)):
            return slot, there
        return None, []
