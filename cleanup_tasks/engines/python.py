"""The Python engine: the same step without scripting, by WATCH, MULTI and EXEC."""

from typing import cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError, WatchError

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import GONE, REAPED, VERDICTS, Outcome, ScriptingRefused
from cleanup_tasks.staleness import judge


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
        except WatchError:
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
        unseen = {keys.heartbeat(coordinator): coordinator for coordinator in batch.unseen}
        judged = [key for pair in map(batch.judged_keys, batch.own) for key in pair]
        with self._client.pipeline() as pipe:
            pipe.watch(*judged, *unseen)  # type: ignore[no-untyped-call]
            if unseen and pipe.exists(*unseen):
                return Outcome(newcomers=frozenset(id_ for key, id_ in unseen.items() if pipe.exists(key)))
            verdicts = dict(zip(batch.own, self._judge(pipe, judged, threshold_s), strict=True))
            shared = [min(verdicts[owner] for owner in owners) for owners in batch.shared.values()]
            doomed = [
                record for record, verdict in zip(batch.shared, shared, strict=True) if verdict == REAPED
            ]
            for coordinator, verdict in verdicts.items():
                if verdict == REAPED:
                    doomed += batch.doomed_keys(coordinator)
            deleted = 0
            if doomed:
                pipe.multi()
                (pipe.exists if dry_run else pipe.unlink)(*doomed)
                (deleted,) = pipe.execute()
        return Outcome(list(verdicts.values()), shared, deleted)

    def _judge(self, pipe: Pipeline, judged: list[bytes], threshold_s: int) -> list[int]:
        """A verdict per heartbeat and activity; every key that is read here is watched."""
        now_ms = server_time_ms(pipe)
        values = cast(list[bytes | None], pipe.mget(judged))
        verdicts = []
        for key, beat, worked in zip(judged[::2], values[::2], values[1::2], strict=True):
            verdict = VERDICTS[judge(beat, worked, now_ms, threshold_s)]
            gone = beat is None and not pipe.exists(key)
            verdicts.append(GONE if gone else verdict)
        return verdicts
