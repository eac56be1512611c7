"""Either engine on a cluster, where a coordinator's keys lie in many slots and no step spans two.

Keys in other slots go first, after a fresh look at the heartbeats that decide about them; the heartbeat
goes last, with all that shares its slot, by the engine's own atomic step. Where a part can't be done its
coordinators' heartbeats stay, so that the next sweep finds them.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError, TryAgainError

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.engines import (
    ACTIVE,
    FAILED,
    GONE,
    REAPED,
    UNRIPE,
    VERDICTS,
    Answer,
    NodeEngine,
    Outcome,
    Reaping,
    ScriptingRefused,
)
from cleanup_tasks.failures import is_transient
from cleanup_tasks.staleness import State, is_orphan_ripe, judge, judge_value

if TYPE_CHECKING:
    from cleanup_tasks.cluster import Cluster, Node


class ClusterEngine:
    """Takes a batch apart by slots and has each slot's step done by the engine of its primary."""

    def __init__(self, cluster: "Cluster", make: Callable[[Redis], NodeEngine]) -> None:
        """`make` gives the engine of one primary."""
        self._cluster = cluster
        self._make = functools.cache(make)
        self.name = str(getattr(make, "name", ""))

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        """See `Engine.reap`; what can't be done now has the verdict FAILED, and the rest is done."""
        yield  # all servers are asked at once, in threads; there is nothing to send ahead
        self._cluster.look_for_successors()
        plan = Plan.scattered(batch) if batch.orphaned else Plan.of(batch)
        tally = _Tally(batch)
        known = self._cluster.existing(map(keys.heartbeat, batch.unseen))
        now_ms, activities = self._cluster.read(map(keys.activity, batch.unseen))
        newcomers = frozenset(
            id_
            for id_ in batch.unseen
            if known.get(keys.heartbeat(id_))
            or judge_value(activities.get(keys.activity(id_)), now_ms, threshold_s) is State.ACTIVE
        )
        if newcomers:
            return Outcome(newcomers=newcomers)
        asked = {owner for owners in plan.apart.values() for owner in owners}
        tally.verdicts = (self._look_at_orphans if batch.orphaned else self._look)(asked, threshold_s)
        unknown = {
            id_
            for id_ in batch.unseen
            if keys.heartbeat(id_) not in known or keys.activity(id_) not in activities
        }
        if unknown:
            tally.fail(batch.owners_beside(unknown))
        self._reap_apart(plan, tally, dry_run)
        if batch.orphaned and not batch.partial and not dry_run:
            self._forget([id_ for id_, verdict in tally.verdicts.items() if verdict == REAPED], tally)
        gone_on = {id_ for id_ in batch.own if tally.verdicts.get(id_, REAPED) == REAPED}
        self._reap_steps([step.of(gone_on) for step in plan.steps], tally, threshold_s, dry_run)
        return tally.outcome()

    def _look(self, coordinators: set[bytes], threshold_s: int) -> dict[bytes, int]:
        """A verdict for each coordinator, by what its heartbeat and activity say now."""
        pairs = {id_: (keys.heartbeat(id_), keys.activity(id_)) for id_ in coordinators}
        now_ms, values = self._cluster.read(key for pair in pairs.values() for key in pair)
        silent = [beat for beat, _ in pairs.values() if values.get(beat, b"") is None]
        there = self._cluster.existing(silent)
        verdicts = {}
        for id_, (beat, worked) in pairs.items():
            if beat not in values or worked not in values or (values[beat] is None and beat not in there):
                verdicts[id_] = FAILED
            elif values[beat] is None and not there[beat]:
                verdicts[id_] = GONE
            else:
                verdicts[id_] = VERDICTS[judge(values[beat], values[worked], now_ms, threshold_s)]
        return verdicts

    def _look_at_orphans(self, coordinators: set[bytes], threshold_s: int) -> dict[bytes, int]:
        """The same for coordinators that must have no heartbeat."""
        notes = self._cluster.client_for(keys.SIGHTINGS)
        ids = list(coordinators)
        first_seen = dict(zip(ids, cast(list[bytes | None], notes.hmget(keys.SIGHTINGS, ids)), strict=True))
        now_ms, activities = self._cluster.read(map(keys.activity, ids))
        there = self._cluster.existing(map(keys.heartbeat, ids))
        verdicts = {}
        for id_ in ids:
            beat, worked = keys.heartbeat(id_), keys.activity(id_)
            if beat not in there or worked not in activities:
                verdicts[id_] = FAILED
            elif there[beat]:
                verdicts[id_] = ACTIVE
            else:
                ripe = is_orphan_ripe(activities[worked], first_seen[id_], now_ms, threshold_s)
                verdicts[id_] = REAPED if ripe else UNRIPE
        return verdicts

    def _forget(self, orphans: list[bytes], tally: "_Tally") -> None:
        try:
            if orphans:
                self._cluster.client_for(keys.SIGHTINGS).hdel(keys.SIGHTINGS, *orphans)
        except RedisError as error:
            # what was deleted must be told all the same
            self._note(error, tally)

    def _reap_apart(self, plan: "Plan", tally: "_Tally", dry_run: bool) -> None:
        """Remove the keys whose owners, all of them, are stale as of just now."""
        doomed = [
            key
            for key, owners in plan.apart.items()
            if all(tally.verdicts[owner] == REAPED for owner in owners)
        ]
        counts = self._cluster.ask("EXISTS" if dry_run else "UNLINK", doomed)
        tally.deleted += sum(counts.values())
        for key in doomed:
            if key not in counts:
                tally.fail(plan.apart[key])

    def _reap_steps(self, steps: list[Batch], tally: "_Tally", threshold_s: int, dry_run: bool) -> None:
        from cleanup_tasks.cluster import ROUNDS

        for attempt in range(ROUNDS):
            again: list[Batch] = []
            redirections: list[Exception] = []
            for step, answer in self._each_step([step for step in steps if step.own], threshold_s, dry_run):
                if isinstance(answer, Outcome):
                    if answer.newcomers:
                        again.append(step.without(answer.newcomers))
                    elif answer.contended:
                        again += step.halves() or [step]
                    else:
                        tally.add(step, answer)
                elif is_redirection(answer):
                    redirections.append(answer)
                    again.append(step)
                else:
                    tally.fail(step.own)
                    self._note(answer, tally)
            steps = again
            if not steps:
                return
            if redirections:
                self._cluster.follow(attempt, redirections)
        for step in steps:
            tally.fail(step.own)
        self._note(TryAgainError("heartbeats changed, or slots were on the move, all the time"), tally)

    def _each_step(
        self, steps: list[Batch], threshold_s: int, dry_run: bool
    ) -> Iterator[tuple[Batch, Answer]]:
        """What became of each step, the primaries side by side."""
        by_node: dict[Node, list[Batch]] = defaultdict(list)
        for step in steps:
            try:
                by_node[self._cluster.owner(key_slot(keys.heartbeat(next(iter(step.own)))))].append(step)
            except RedisError as error:
                yield step, error

        def work(node_steps: list[Batch]) -> Callable[[Redis], list[Answer]]:
            return lambda client: self._make(client).reap_each(node_steps, threshold_s, dry_run=dry_run)

        answers = self._cluster.side_by_side({node: work(some) for node, some in by_node.items()})
        for node, answer in answers.items():
            each = [answer] * len(by_node[node]) if isinstance(answer, RedisError) else answer
            yield from zip(by_node[node], each, strict=True)

    def _note(self, error: RedisError | ScriptingRefused, tally: "_Tally") -> None:
        if isinstance(error, RedisError) and is_transient(error):
            self._cluster.note(error)
        else:
            tally.fatal = tally.fatal or error


def is_redirection(error: Exception) -> bool:
    """Whether a server did nothing, for the slot is elsewhere or on its way (ASK, MOVED, TRYAGAIN)."""
    from cleanup_tasks.cluster import REDIRECTIONS

    return isinstance(error, REDIRECTIONS)


@dataclass(slots=True)
class Plan:
    """A batch taken apart by slots."""

    #: Key -> its owners: what can't be in the step of its owners' heartbeats.
    apart: dict[bytes, list[bytes]] = field(default_factory=dict)
    #: One for each slot that holds heartbeats: these, and what goes with them in one atomic step. It checks
    #: the unseen of its own slot once more; the look before it has checked all.
    steps: list[Batch] = field(default_factory=list)

    @classmethod
    def scattered(cls, batch: Batch) -> "Plan":
        """The plan for orphans, which have no heartbeat that could go last."""
        plan = cls(apart=dict(batch.shared))
        for id_ in batch.own:
            # never the heartbeat: it was not there, and if it is now its owner lives
            activity = () if batch.partial else (keys.activity(id_),)
            plan.apart.update((key, [id_]) for key in (*activity, *batch.own[id_]))
        return plan

    @classmethod
    def of(cls, batch: Batch) -> "Plan":
        """The plan for a batch."""
        plan = cls()
        slots = {id_: key_slot(keys.heartbeat(id_)) for id_ in batch.own}
        unseen_slots = {id_: key_slot(keys.heartbeat(id_)) for id_ in batch.unseen}
        by_slot: dict[int, Batch] = defaultdict(lambda: Batch(partial=True))
        for id_, own in batch.own.items():
            step = by_slot[slots[id_]]
            heartbeat, activity = keys.heartbeat(id_), keys.activity(id_)
            together = step.own[id_] = [] if batch.partial else [heartbeat]
            if key_slot(activity) != slots[id_]:
                step.beat_alone.add(id_)
                if not batch.partial:
                    plan.apart[activity] = [id_]
            elif not batch.partial:
                together.append(activity)
            for key in own:
                if key_slot(key) == slots[id_]:
                    together.append(key)
                else:
                    plan.apart[key] = [id_]
        for key, owners in batch.shared.items():
            slot = slots[owners[0]]
            if key_slot(key) == slot and all(slots[owner] == slot for owner in owners):
                by_slot[slot].shared[key] = owners
            else:
                plan.apart[key] = owners
        for slot, step in by_slot.items():
            step.unseen = {id_ for id_ in batch.unseen if unseen_slots[id_] == slot}
            step.beat_alone |= {id_ for id_ in step.unseen if key_slot(keys.activity(id_)) != slot}
            if batch.partial:
                held = {owner for owners in step.shared.values() for owner in owners}
                step = step.of({id_ for id_, own in step.own.items() if own or id_ in held})
            plan.steps.append(step)
        return plan


class _Tally:
    """What becomes of a batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.verdicts: dict[bytes, int] = {}
        self.deleted = 0
        self.fatal: RedisError | ScriptingRefused | None = None

    def fail(self, coordinators: Iterable[bytes]) -> None:
        """Note that some of these coordinators' keys could not be dealt with."""
        for id_ in coordinators:
            if self.verdicts.get(id_, REAPED) == REAPED:
                self.verdicts[id_] = FAILED

    def add(self, step: Batch, outcome: Outcome) -> None:
        """Note what a step did."""
        self.deleted += outcome.deleted
        self.verdicts.update(zip(step.own, outcome.coordinators, strict=True))

    def outcome(self) -> Outcome:
        """All of it."""
        return Outcome(
            coordinators=[self.verdicts.get(id_, REAPED) for id_ in self._batch.own],
            shared=[
                min(self.verdicts.get(owner, REAPED) for owner in owners)
                for owners in self._batch.shared.values()
            ],
            deleted=self.deleted,
            fatal=self.fatal,
        )
