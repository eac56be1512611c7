"""The Python engine: the same step without scripting, by WATCH, MULTI and EXEC."""

from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.connection import time_ms
from cleanup_tasks.engines import ACTIVE, GONE, REAPED, UNRIPE, VERDICTS, Answer, Outcome, Reaping, finish
from cleanup_tasks.line import Command, Line
from cleanup_tasks.staleness import State, is_orphan_ripe, judge, judge_value

#: Transactions that `PythonEngine.reap_each` has open at once, each on a connection of its own.
OPEN_AT_ONCE = 16


class PythonEngine:
    """Reaps by optimistic locking: if what was judged changes, nothing happens and it is judged again."""

    name = "python"

    def __init__(self, client: Redis) -> None:
        """Use this client."""
        self._client = client

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        """See `Engine.reap`."""
        with Line(self._client) as line:
            look = _Look(line, batch, threshold_s)
            yield
            look.wait()
            newcomers = look.newcomers()
            if newcomers:
                line.ask("UNWATCH")
                return Outcome(newcomers=newcomers)
            verdicts = dict(zip(batch.own, self._judge(look), strict=True))
            shared = [min(verdicts[owner] for owner in owners) for owners in batch.shared.values()]
            doomed = look.doomed(verdicts, shared)
            if not doomed:
                line.ask("UNWATCH")
                return Outcome(list(verdicts.values()), shared)
            commands: list[Command] = [("EXISTS" if dry_run else "UNLINK", *doomed)]
            if batch.orphaned and not batch.partial and not dry_run:
                reaped = [id_ for id_, verdict in verdicts.items() if verdict == REAPED]
                commands.append(("HDEL", keys.SIGHTINGS, *reaped))
            line.send(("MULTI",), *commands, ("EXEC",))
            yield
            for _queued in ("MULTI", *commands):
                line.receive()
            answers: list[Any] | None = line.receive()
        if answers is None:
            return Outcome(contended=True)
        errors = [answer for answer in answers if isinstance(answer, RedisError)]
        deleted = 0 if answers[0] in errors else answers[0]
        return Outcome(list(verdicts.values()), shared, deleted, fatal=errors[0] if errors else None)

    def reap_each(self, batches: list[Batch], threshold_s: int, *, dry_run: bool) -> list[Answer]:
        """See `NodeEngine.reap_each`; with a lost connection no further batch is tried."""
        answers: list[Answer] = []
        for start in range(0, len(batches), OPEN_AT_ONCE):
            some = batches[start : start + OPEN_AT_ONCE]
            answers += finish(self.reap(batch, threshold_s, dry_run=dry_run) for batch in some)
            lost = [
                answer
                for answer in answers
                if isinstance(answer, RedisError) and not isinstance(answer, ResponseError)
            ]
            if lost:
                return answers + lost[:1] * (len(batches) - len(answers))
        return answers

    def _judge(self, look: "_Look") -> list[int]:
        """A verdict per coordinator of the batch."""
        return look.verdicts_on_orphans() if look.batch.orphaned else look.verdicts()


class _Look:
    """What decides about a batch: every value is read after it is watched."""

    def __init__(self, line: Line, batch: Batch, threshold_s: int) -> None:
        """Ask; the answers come with `wait`."""
        self.batch = batch
        self._line = line
        self._threshold_s = threshold_s
        self._unseen = list(batch.unseen)
        self._guards = batch.judged_keys(self._unseen)
        self._beats, self._activities = batch.judged_keys(batch.own)
        judged, guards = [*self._beats, *self._activities], [*self._guards[0], *self._guards[1]]
        notes = [keys.SIGHTINGS] if batch.orphaned else []
        self._asked: list[Command] = [("EXISTS", *guards)] if guards else []
        line.send(("WATCH", *judged, *guards, *notes), ("TIME",), ("MGET", *judged), *self._asked)

    def wait(self) -> None:
        """Take in the answers."""
        self._line.receive()
        self._now_ms = time_ms(self._line.receive())
        values = self._line.receive()
        self._beat_values = values[: len(self._beats)]
        self._activity_values = values[len(self._beats) :]
        self._alarm = any(self._line.receive() for _question in self._asked)

    def newcomers(self) -> frozenset[bytes]:
        """Those of the unseen that gave a sign of life."""
        if not self._alarm:
            return frozenset()
        beats, activities = self._guards
        beating = self._existing(beats)
        rows = zip(self._unseen, beats, self._line.ask("MGET", *activities), strict=True)
        return frozenset(
            id_
            for id_, beat, worked in rows
            if beat in beating or judge_value(worked, self._now_ms, self._threshold_s) is State.ACTIVE
        )

    def verdicts(self) -> list[int]:
        """A verdict per coordinator."""
        beats, activities = self._beat_values, self._activity_values
        found_stale = self.batch.snapshot.of(self.batch.own)
        if self.batch.snapshot.at_ms <= self._now_ms and found_stale == [
            value or b"" for value in (*beats, *activities)
        ]:
            return [REAPED] * len(beats)
        missing = [name for name, beat in zip(self._beats, beats, strict=True) if beat is None]
        gone = set(missing) - self._existing(missing)
        return [
            GONE if name in gone else VERDICTS[judge(beat, activity, self._now_ms, self._threshold_s)]
            for name, beat, activity in zip(self._beats, beats, activities, strict=True)
        ]

    def verdicts_on_orphans(self) -> list[int]:
        """The same for coordinators that must have no heartbeat."""
        beating = self._existing(self._beats)
        notes = self._line.ask("HMGET", keys.SIGHTINGS, *self.batch.own)
        verdicts = []
        for name, activity, first_seen in zip(self._beats, self._activity_values, notes, strict=True):
            ripe = is_orphan_ripe(activity, first_seen, self._now_ms, self._threshold_s)
            verdicts.append(ACTIVE if name in beating else REAPED if ripe else UNRIPE)
        return verdicts

    def doomed(self, verdicts: dict[bytes, int], shared: list[int]) -> list[bytes]:
        """The keys that go by these verdicts on coordinators and shared records."""
        doomed = [key for key, verdict in zip(self.batch.shared, shared, strict=True) if verdict == REAPED]
        for (id_, verdict), *judged in zip(verdicts.items(), self._beats, self._activities, strict=True):
            if verdict == REAPED:
                doomed += self.batch.own[id_]
                doomed += () if self.batch.partial else judged
        return doomed

    def _existing(self, names: list[bytes]) -> set[bytes]:
        """Which keys there are, of whatever type."""
        if not names or not self._line.ask("EXISTS", *names):  # usually none, which takes one command
            return set()
        self._line.send(*(("EXISTS", name) for name in names))
        return {name for name in names if self._line.receive()}
