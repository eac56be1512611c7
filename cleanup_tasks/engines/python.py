"""The Python engine: the same step without scripting, by WATCH, MULTI and EXEC."""

from typing import cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError, WatchError

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import ACTIVE, GONE, REAPED, UNRIPE, VERDICTS, Outcome, ScriptingRefused
from cleanup_tasks.staleness import State, is_orphan_ripe, judge, judge_value


class PythonEngine:
    """Reaps by optimistic locking: if what was judged changes, nothing happens and it is judged again."""

    name = "python"

    def __init__(self, client: Redis) -> None:
        """Use this client."""
        self._client = client

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Outcome:
        """See `Engine.reap`."""
        try:
            return self._attempt(batch, threshold_s, dry_run)
        except WatchError as error:
            # redis-py says the same when the connection breaks in a transaction; then EXEC may have
            # happened, and judging again would hide what it deleted.
            if isinstance(error.__context__, ConnectionError | TimeoutError):
                raise error.__context__ from None
            return Outcome(contended=True)

    def reap_each(
        self, batches: list[Batch], threshold_s: int, *, dry_run: bool
    ) -> list[Outcome | RedisError | ScriptingRefused]:
        """See `NodeEngine.reap_each`; with a lost connection no further batch is tried."""
        answers: list[Outcome | RedisError | ScriptingRefused] = []
        for batch in batches:
            try:
                answers.append(self.reap(batch, threshold_s, dry_run=dry_run))
            except RedisError as error:
                answers.append(error)
                if not isinstance(error, ResponseError):
                    break
        return answers + [answers[-1]] * (len(batches) - len(answers))

    def _attempt(self, batch: Batch, threshold_s: int, dry_run: bool) -> Outcome:
        unseen = list(batch.unseen)
        beats, activities = batch.guard_keys(unseen)
        judged = [key for pair in map(batch.judged_keys, batch.own) for key in pair]
        notes = [keys.SIGHTINGS] if batch.orphaned else []
        with self._client.pipeline() as pipe:
            pipe.watch(*judged, *beats, *activities, *notes)  # type: ignore[no-untyped-call]
            now_ms = server_time_ms(pipe)
            names = [*judged, *activities]
            values = dict(zip(names, cast(list[bytes | None], pipe.mget(names)), strict=True))

            def is_active(activity: bytes) -> bool:
                return judge_value(values[activity], now_ms, threshold_s) is State.ACTIVE

            if unseen:
                beating = self._existing(pipe, beats)
                rows = zip(unseen, beats, activities, strict=True)
                newcomers = {id_ for id_, beat, worked in rows if beat in beating or is_active(worked)}
                if newcomers:
                    return Outcome(newcomers=frozenset(newcomers))
            judge_all = self._judge_orphans if batch.orphaned else self._judge
            verdicts = dict(zip(batch.own, judge_all(pipe, judged, values, now_ms, threshold_s), strict=True))
            shared = [min(verdicts[owner] for owner in owners) for owners in batch.shared.values()]
            doomed = [key for key, verdict in zip(batch.shared, shared, strict=True) if verdict == REAPED]
            reaped = [coordinator for coordinator, verdict in verdicts.items() if verdict == REAPED]
            for coordinator in reaped:
                doomed += batch.doomed_keys(coordinator)
            deleted = 0
            if doomed:
                pipe.multi()
                (pipe.exists if dry_run else pipe.unlink)(*doomed)
                if batch.orphaned and not batch.partial and not dry_run:
                    pipe.hdel(keys.SIGHTINGS, *reaped)
                deleted = pipe.execute()[0]
        return Outcome(list(verdicts.values()), shared, deleted)

    @staticmethod
    def _existing(pipe: Pipeline, names: list[bytes]) -> set[bytes]:
        """Which keys there are, of whatever type: usually none, which takes one command."""
        return {name for name in names if pipe.exists(name)} if pipe.exists(*names) else set()

    def _judge(
        self,
        pipe: Pipeline,
        judged: list[bytes],
        values: dict[bytes, bytes | None],
        now_ms: int,
        threshold_s: int,
    ) -> list[int]:
        """A verdict per heartbeat and activity; every value was read after it was watched."""
        verdicts = []
        for beat, worked in zip(judged[::2], judged[1::2], strict=True):
            verdict = VERDICTS[judge(values[beat], values[worked], now_ms, threshold_s)]
            gone = values[beat] is None and not pipe.exists(beat)
            verdicts.append(GONE if gone else verdict)
        return verdicts

    def _judge_orphans(
        self,
        pipe: Pipeline,
        judged: list[bytes],
        values: dict[bytes, bytes | None],
        now_ms: int,
        threshold_s: int,
    ) -> list[int]:
        """The same for coordinators that must have no heartbeat."""
        beats = judged[::2]
        beating = self._existing(pipe, beats)
        ids = list(map(keys.coordinator_of, beats))
        notes = cast(list[bytes | None], pipe.hmget(keys.SIGHTINGS, ids))
        verdicts = []
        for beat, worked, first_seen in zip(beats, judged[1::2], notes, strict=True):
            ripe = is_orphan_ripe(values[worked], first_seen, now_ms, threshold_s)
            verdicts.append(ACTIVE if beat in beating else REAPED if ripe else UNRIPE)
        return verdicts
