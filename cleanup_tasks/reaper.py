"""Has batches reaped, the next under way while one is awaited, and counts what became of them."""

import contextlib
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from redis.exceptions import RedisError, TimeoutError

from cleanup_tasks import keys
from cleanup_tasks.batch import Batch
from cleanup_tasks.engines import FAILED, GONE, Engine, Outcome, Reaping, ScriptingRefused
from cleanup_tasks.failures import may_have_happened
from cleanup_tasks.line import advance
from cleanup_tasks.log import logger
from cleanup_tasks.report import Report

#: How often a batch is judged anew when heartbeats change under the Python engine: whole, then halved
#: as far as it goes, then left alone.
ATTEMPTS = 5


@dataclass(slots=True, eq=False)
class _Step:
    """A batch that is under way."""

    batch: Batch
    #: Which try at it this is.
    attempt: int
    #: None: not begun.
    reaping: Reaping | None = None
    #: Why it has no outcome.
    failure: BaseException | None = None

    def advance(self) -> Outcome | None:
        """Go on until it waits again; returns the outcome if it is over."""
        assert self.reaping
        try:
            return advance(self.reaping)
        except BaseException as error:
            self.failure = error
            raise


class Reaper:
    """What becomes of the batches of one sweep."""

    def __init__(self, engine: Engine, report: Report, max_named: int | None, under_way: int) -> None:
        """Count in `report`; `max_named` is how many orphans the log names (None: all).

        `under_way`: batches that are under way at once.
        """
        self._engine = engine
        self._under_way = under_way
        self._report = report
        self._max_named = max_named
        self._named = 0
        self._revived: set[bytes] = set()
        #: Of which a part was given up: what else they have may go, their heartbeats stay.
        self._given_up: set[bytes] = set()
        #: In a dry run: those that would be reaped.
        self.gone: set[bytes] = set()
        #: Orphans that keep a record, and so are not yet done with.
        self.held: set[bytes] = set()

    def reap(self, batches: Iterable[Batch], landed: Callable[[Batch], object]) -> None:
        """Reap batches, and call `landed` with each when it has come to an end.

        Raises what the client or `landed` raises, once what was under way has come to an end too.
        """
        coming = self._without_given_up(batches)
        again: list[tuple[Batch, int]] = []
        #: From before anything of a step is sent until it is counted: an exception may come at any point.
        under_way: deque[_Step] = deque()
        try:
            while True:
                while len(under_way) < self._under_way and not any(step.batch.is_alone for step in under_way):
                    batch, attempt = again.pop() if again else (next(coming, None), 1)
                    if batch is None:
                        break
                    step = _Step(batch, attempt)
                    under_way.append(step)
                    step.reaping = self._start(batch)
                    step.advance()
                if not under_way:
                    return
                step = under_way[0]
                outcome = step.advance()
                if outcome is None:
                    under_way.rotate(-1)
                    continue
                again += self._settle(step, outcome)
                under_way.popleft()
                if outcome.fatal:
                    raise outcome.fatal
                landed(step.batch)
        except BaseException as error:
            self._land(under_way, error)
            raise

    def _without_given_up(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if not batch.partial and not self._given_up.isdisjoint(batch.own):
                batch = batch.of(batch.own.keys() - self._given_up)
            if batch.own:
                yield batch

    def _start(self, batch: Batch) -> Reaping:
        report = self._report
        return self._engine.reap(batch, report.stale_threshold_seconds, dry_run=report.dry_run)

    def _land(self, under_way: Iterable[_Step], error: BaseException) -> None:
        """After a failure: see what becomes of what is under way, for the server may have done it."""
        # a server that was silent for so long is not waited for once more
        silent = isinstance(error, TimeoutError)
        for step in under_way:
            reaping = step.reaping
            if reaping is None or inspect.getgeneratorstate(reaping) == inspect.GEN_CREATED:
                continue  # nothing was sent
            outcome = None
            # what is over has failed, or was interrupted before it was counted; the first failure is told
            with contextlib.suppress(RedisError, ScriptingRefused):
                while (
                    not silent
                    and outcome is None
                    and inspect.getgeneratorstate(reaping) != inspect.GEN_CLOSED
                ):
                    outcome = step.advance()
            reaping.close()
            if outcome is None:
                self._count_failure(step)
            elif not outcome.newcomers and not outcome.contended:
                self._tally(step.batch, outcome)

    def _count_failure(self, step: _Step) -> None:
        unknown = step.failure is None or may_have_happened(step.failure)
        if unknown and not self._report.dry_run:
            self._report.cleanup_errors += 1

    def _settle(self, step: _Step, outcome: Outcome) -> list[tuple[Batch, int]]:
        """Count an outcome; returns what is to be judged anew, and which try at it that will be."""
        batch = step.batch
        if outcome.newcomers:
            return [(batch.without(outcome.newcomers), step.attempt)]
        if not outcome.contended:
            self._tally(batch, outcome)
            return []
        halves = batch.halves() if step.attempt > 1 else None
        if halves:
            return [(half, 1) for half in halves]
        if step.attempt < ATTEMPTS:
            return [(batch, step.attempt + 1)]
        self._report.cleanup_errors += 1
        self._given_up.update(batch.own)
        for id_ in batch.own:
            logger.warning("Kept, its keys change all the time: %s", keys.text(id_))
        return []

    def _tally(self, batch: Batch, outcome: Outcome) -> None:
        report = self._report
        report.keys_deleted += outcome.deleted
        if batch.orphaned:
            report.orphan_keys_deleted += outcome.deleted
        verdicts = zip(batch.own, outcome.coordinators, strict=True)
        kept = {id_: verdict for id_, verdict in verdicts if verdict < 0}
        self._given_up.update(id_ for id_, verdict in kept.items() if verdict == FAILED)
        reaped = [] if batch.partial else [id_ for id_ in batch.own if id_ not in kept]
        if batch.orphaned:
            reaped = [id_ for id_ in reaped if id_ not in self.held]
            report.orphaned_coordinators_reaped += len(reaped)
            self._name_orphans(reaped)
        else:
            report.reaped += len(reaped)
            if report.dry_run:
                self.gone.update(reaped)
            self._name_revived(id_ for id_, verdict in kept.items() if verdict not in (GONE, FAILED))
        if FAILED in kept.values() or outcome.fatal:
            report.cleanup_errors += 0 if report.dry_run else 1

    def _name_revived(self, coordinators: Iterable[bytes]) -> None:
        for id_ in coordinators:
            if id_ not in self._revived:
                self._revived.add(id_)
                self._report.revived_coordinators += 1
                logger.info("Coordinator revived, kept: %s", keys.text(id_))

    def _name_orphans(self, reaped: list[bytes]) -> None:
        room = len(reaped) if self._max_named is None else self._max_named - self._named
        for id_ in reaped[: max(0, room)]:
            logger.info("Orphaned coordinator reaped: %s", keys.text(id_))
        self._named += len(reaped)
