"""The Python engine: the same step without scripting, by WATCH, MULTI and EXEC."""

from typing import cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import WatchError

from cleanup_tasks import keys
from cleanup_tasks.batches import Batch
from cleanup_tasks.connection import server_time_ms
from cleanup_tasks.engines import ACTIVE, GONE, UNREADABLE, Outcome
from cleanup_tasks.staleness import State, judge

#: A stale coordinator's verdict until the number of its deleted keys is known.
STALE = 0
VERDICTS = {State.ACTIVE: ACTIVE, State.UNREADABLE: UNREADABLE, State.STALE: STALE}


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

    def _attempt(self, batch: Batch, threshold_s: int, dry_run: bool) -> Outcome:
        unseen = {keys.heartbeat(coordinator): coordinator for coordinator in batch.unseen}
        judged = [key for pair in map(batch.judged_keys, batch.own) for key in pair]
        with self._client.pipeline() as pipe:
            pipe.watch(*judged, *unseen)  # type: ignore[no-untyped-call]
            if unseen and pipe.exists(*unseen):
                return Outcome(newcomers=frozenset(id_ for key, id_ in unseen.items() if pipe.exists(key)))
            verdicts = dict(zip(batch.own, self._judge(pipe, judged, threshold_s), strict=True))
            shared = {
                record: min(verdicts[owner] for owner in owners) for record, owners in batch.shared.items()
            }
            pipe.multi()
            remove = pipe.exists if dry_run else pipe.unlink
            doomed: list[tuple[dict[bytes, int], bytes]] = []
            for coordinator, verdict in verdicts.items():
                names = batch.doomed_keys(coordinator)
                if verdict == STALE and names:
                    remove(*names)
                    doomed.append((verdicts, coordinator))
            for record, verdict in shared.items():
                if verdict == STALE:
                    remove(record)
                    doomed.append((shared, record))
            for (counts, name), count in zip(doomed, pipe.execute(), strict=True):
                counts[name] = count
        return Outcome(list(verdicts.values()), list(shared.values()))

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
