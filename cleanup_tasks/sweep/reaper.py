"""Has batches deleted, the next under way while one is awaited, and counts what became of them."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from redis.exceptions import RedisError, TimeoutError

from cleanup_tasks.engines.batch import Answer, Batch
from cleanup_tasks.engines.engine import Engine
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.errors import ScriptingRefused, may_have_happened
from cleanup_tasks.sweep.batcher import Joined
from cleanup_tasks.sweep.fleet import Due


class Reaper:
    """What becomes of the batches of one sweep."""

    def __init__(
        self,
        engine: Engine,
        report: Report,
        max_named: int | None,
    ) -> None:
        """Count in `report`.

        Args:
            engine: what deletes.
            report: the sweep's.
            max_named: how many orphans the log names; None: all.
        """
        self._engine = engine
        self._report = report
        self._max_named = max_named
        self._named = 0
        #: From before a batch is sent until it is counted: an exception may come at any point.
        self._under_way: deque[Batch] = deque()
        #: Those that were due and stayed.
        self.kept: set[bytes] = set()
        #: Those of which something was given up.
        self.blocked: set[bytes] = set()
        #: Those that stayed with records that others own too: one of all of them has changed.
        self.to_split: list[Due] = []
        #: Orphans whose keys went.
        self.reaped_orphans: list[bytes] = []

    def reap(
        self,
        batches: Iterable[Batch | None],
        after_each: Callable[[int], object],
        when_reaped: Callable[[list[bytes]], object],
    ) -> None:
        """Have all batches deleted; `after_each` is told how many coordinators are done with a batch.

        `when_reaped` is told of orphans whose keys went, as soon as that is known.

        At None it waits for the end of all batches before, and only then asks for the next one.

        Raises what the engine or `after_each` raises, once what was under way has come to an end too.
        """
        try:
            for batch in batches:
                limit = 1 if batch is None else self._engine.in_flight
                while len(self._under_way) >= limit:
                    after_each(self._receive(when_reaped))
                if batch is not None:
                    self._send(batch)
            while self._under_way:
                after_each(self._receive(when_reaped))
        except BaseException as error:
            self._wind_up(error, when_reaped)
            raise
        finally:
            self._engine.close()

    def _send(self, batch: Batch) -> None:
        self._under_way.append(batch)
        with self._none_if_refused(batch):
            self._engine.send([batch])

    @contextlib.contextmanager
    def _none_if_refused(self, batch: Batch) -> Iterator[None]:
        """Take a batch off those under way where the server refuses it as a whole."""
        try:
            yield
        except (RedisError, ScriptingRefused) as error:
            if not may_have_happened(error):
                self._under_way.remove(batch)
            raise

    def _receive(self, when_reaped: Callable[[list[bytes]], object]) -> int:
        with self._none_if_refused(self._under_way[0]):
            batch, answer = self._engine.receive()
        before = len(self.reaped_orphans)
        done = self._count(batch, answer)
        self._under_way.remove(batch)
        if orphans := self.reaped_orphans[before:]:
            when_reaped(orphans)
        if answer.error is not None:
            raise answer.error
        return done

    def _wind_up(self, error: BaseException, when_reaped: Callable[[list[bytes]], object]) -> None:
        """After a failure: see what becomes of what is under way, for the server may have done it."""
        try:
            # a server that was silent for so long is not waited for once more
            pending = 0 if isinstance(error, TimeoutError) else self._engine.pending
            while pending and self._under_way:
                with contextlib.suppress(RedisError, ScriptingRefused):  # the first failure is told
                    self._receive(when_reaped)
                # one that is refused leaves the others; where the connection is lost, none is answered
                pending = self._engine.pending if self._engine.pending < pending else 0
        finally:
            if not self._report.dry_run:
                self._report.cleanup_errors += len(self._under_way)
            self._under_way.clear()

    def _count(self, batch: Batch, answer: Answer) -> int:
        report = self._report
        stayed = {*answer.kept, *answer.failed}
        gone: list[Due] = []
        self._name_keys(batch, stayed)
        for number, subject in enumerate(batch.subjects):
            if isinstance(subject, Joined):
                (due,) = subject
                if number in answer.kept:
                    self.to_split.append(due)
                    continue
            elif isinstance(subject, Due):
                due = subject
            else:
                continue
            if number not in stayed:
                gone.append(due)
                if not report.dry_run:
                    due.has_gone = True
                continue
            self.kept.add(due.id)
            if not due.is_orphan and number in answer.kept:
                report.revived_coordinators += 1
                logger.info("Coordinator revived, kept: %s", keys.text(due.id))
        self._give_up(batch, answer.failed)
        self.kept.difference_update(due.id for due in gone)  # one may have gone after a record was given up
        orphans = [due.id for due in gone if due.is_orphan]
        report.keys_deleted += answer.deleted
        report.orphaned_coordinators_reaped += len(orphans)
        report.reaped += len(gone) - len(orphans)
        self.reaped_orphans += orphans
        self._name_orphans(orphans)
        return len(gone)

    def _give_up(self, batch: Batch, failed: list[int]) -> None:
        if not failed:
            return
        for number in failed:
            subject = batch.subjects[number]
            owners = (subject,) if isinstance(subject, Due) else subject
            ids = [due.id for due in owners if not due.has_gone]
            for id_ in ids:
                if id_ not in self.blocked:
                    logger.warning("Kept, not all of its keys could be dealt with: %s", keys.text(id_))
            self.blocked.update(ids)
            self.kept.update(ids)
        self._report.cleanup_errors += 1

    def _name_keys(self, batch: Batch, stayed: set[int]) -> None:
        """Name each key that went; of signals and activities nobody has seen whether they were there."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        dry_run = self._report.dry_run
        text = "[DRY-RUN] Key would be deleted" if dry_run else "Key deleted"
        if_there = ", if it is there" if dry_run else ", if it was there"
        for number, group in enumerate(batch.group_keys()):
            for key in group if number not in stayed else ():
                unsure = if_there if key.startswith(keys.WHOLE_ID) else ""
                logger.debug("%s%s: %s", text, unsure, keys.text(key))

    def _name_orphans(self, reaped: list[bytes]) -> None:
        dry_run = self._report.dry_run
        text = "[DRY-RUN] Orphaned coordinator would be reaped" if dry_run else "Orphaned coordinator reaped"
        room = len(reaped) if self._max_named is None else self._max_named - self._named
        for id_ in reaped[: max(0, room)]:
            logger.info("%s: %s", text, keys.text(id_))
        self._named += len(reaped)
