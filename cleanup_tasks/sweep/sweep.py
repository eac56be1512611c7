"""One sweep, whoever asks for it. It ends in one place, and its report says what it did."""

import contextlib
import time
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import ConnectionError, NoPermissionError, ReadOnlyError, RedisError, ResponseError

from cleanup_tasks.engines import engine_for
from cleanup_tasks.reporting.exporter import CHANNEL
from cleanup_tasks.reporting.log import log_failure, log_report, log_summary, logger
from cleanup_tasks.reporting.logfile import open_log_file
from cleanup_tasks.reporting.metrics import FIGURES, Outcome
from cleanup_tasks.reporting.report import HANDED_ON, PreviousAttempts, Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers import acl
from cleanup_tasks.servers.errors import (
    ScriptingRefused,
    in_short,
    interrupts_unmasked,
    is_transient,
    is_unknown_command,
)
from cleanup_tasks.servers.hints import with_hint
from cleanup_tasks.servers.lock import SweepLock
from cleanup_tasks.servers.topology import Topology, servers_at
from cleanup_tasks.servers.url import Layout
from cleanup_tasks.sweep.cleaner import Cleaner
from cleanup_tasks.sweep.cooldown import note_last, seconds_since_last
from cleanup_tasks.sweep.garbage import without_garbage_collection
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.skips import forget_skips, note_skip, noting_that_it_loads, reason_to_skip

#: Why a sweep that found the lock held did nothing.
LOCKED = "another sweep is running"
#: Why one that beat asked for did nothing though the lock was free.
COOLED = "beat's last sweep began less than half an interval ago"
#: What breaks a sweep off from outside: no failure, for the next sweep goes on where this one stopped.
INTERRUPTS = (KeyboardInterrupt, SoftTimeLimitExceeded)


class Sweep:
    """A sweep; `report` says what it did, also after an exception."""

    def __init__(self, options: Options) -> None:
        """Nothing is sent before `run`."""
        self._options = options
        #: What the metrics were told, by the attempts before too.
        self._published = PreviousAttempts(options.previous)
        #: Whether the server answered at all; where it did not, nothing was done.
        self.connected = False
        #: Whether all that is left is to tell how it ended.
        self.has_ended = False
        self.report = Report(
            target=options.target,
            dry_run=options.dry_run,
            implementation=options.engine,
            fallback_reason=options.fallback_reason,
            stale_threshold_seconds=options.threshold_s,
        )

    def run(self) -> Report:
        """Sweep, and tell log and metrics how it ended, whichever way that was.

        Raises:
            ScriptingRefused: the Lua engine can't work on this server, the Python engine may.
            RedisError: anything else that went wrong there.
            KeyboardInterrupt, SoftTimeLimitExceeded: it was broken off; what was under way has ended.
        """
        open_log_file(self._options.log_path)
        started_s = time.perf_counter()
        outcome: Outcome = "failed"
        try:
            with interrupts_unmasked(INTERRUPTS), without_garbage_collection():
                self._sweep()
            outcome = self._outcome()
        except INTERRUPTS as interrupt:
            outcome = "incomplete"
            self.report.failure = str(interrupt) or type(interrupt).__name__
            raise
        except ScriptingRefused as refusal:
            outcome = "refused"
            self.report.failure = str(refusal)
            raise
        except RedisError as error:
            outcome = "retried" if self._options.is_retried and is_transient(error) else "failed"
            self.report.failure = self._explained(error)
            error.args = (self.report.failure,)  # whoever asked for the sweep reads no log
            raise
        except Exception as error:
            self.report.failure = repr(error)
            raise
        finally:
            self._end(outcome, time.perf_counter() - started_s)
        return self.report

    def so_far(self) -> PreviousAttempts:
        """What the next attempt has to know of this one and those before; call it once `run` has ended."""
        return self._published

    def _sweep(self) -> None:
        options = self._options
        with servers_at(options.address, options.tls) as servers:
            with with_hint(options.address):
                with noting_that_it_loads(options):
                    servers.connect()
                if servers.is_replica() and not options.dry_run:
                    raise ReadOnlyError("this is a replica: use its primary, or its sentinels' addresses")
            self.connected = True
            if reason := reason_to_skip(servers, options):
                self._skip(reason, servers)
                return
            if options.dry_run:
                if servers.is_replica():
                    logger.warning("Dry run on a replica: what it shows may lag behind its primary")
                self._clean(servers, lock=None)
                return
            client = servers.client_for(keys.LOCK)
            with SweepLock(client, options.owner, previous_owner=options.previous_owner) as lock:
                if not lock.acquire():
                    self._skip(LOCKED, servers)
                elif options.beat_interval_s is None:
                    self._clean(servers, lock)
                else:
                    self._clean_for_beat(servers, lock, options.beat_interval_s)

    def _skip(self, reason: str, servers: Topology) -> None:
        if self._options.previous.has_changed_something:
            logger.warning("The rest is left to others: %s", reason)
            return
        self.report.skipped = reason
        if not self._options.dry_run:
            note_skip(servers, self._options.interval_s, reason)

    def _explained(self, error: RedisError) -> str:
        text = in_short(error)
        if is_unknown_command(error):
            text += "; the server or proxy doesn't have it, and a sweep can't do without"
        if isinstance(error, NoPermissionError) or "NOPERM" in text:
            # The server doesn't say which key, so we say which ones are asked for.
            text += f"; the user needs {self._permissions()}"
        if self._options.refusal:
            text += f"; before this the Lua engine was refused: {self._options.refusal}"
        return text

    def _permissions(self) -> str:
        options = self._options
        return acl.rules(
            *(acl.ORPHANS if options.orphans == "reap" else ()),
            *(acl.DATABASE if options.address.database else ()),
            *(acl.CLUSTER if options.address.layout is Layout.CLUSTER else ()),
        )

    def _clean_for_beat(self, servers: Topology, lock: SweepLock, interval_s: float) -> None:
        began_ms = servers.now_ms()
        since_s = seconds_since_last(servers, began_ms)
        is_too_soon = since_s is not None and since_s < interval_s / 2
        # what an attempt before this one has begun is brought to its end
        if is_too_soon and not self._options.previous.has_changed_something:
            self.report.skipped = COOLED
            return
        self._clean(servers, lock)
        if self._outcome() == "success":
            note_last(servers, began_ms)

    def _clean(self, servers: Topology, lock: SweepLock | None) -> None:
        def go_on(what: str, done: int, total: int) -> None:
            if lock is not None:
                lock.renew()
            self._publish()
            self._options.progress(what, done, total)

        engine = engine_for(servers, self._options.engine)
        try:
            Cleaner(servers, engine, self._options, self.report, go_on).run()
        except (ConnectionError, ResponseError):  # perhaps since another server has taken over
            with contextlib.suppress(RedisError):
                self._check_that_it_lasts(servers)
            raise
        self._check_that_it_lasts(servers)
        if not self.report.dry_run:
            forget_skips(servers)

    def _check_that_it_lasts(self, servers: Topology) -> None:
        if self.report.dry_run or not self.report.keys_deleted:
            return
        try:
            servers.check_still_primary()
        except RedisError:
            self.report.complete = False
            self.report.cleanup_errors += 1
            raise

    def _outcome(self) -> Outcome:
        if self.report.skipped:
            return "skipped"
        if self.report.held:
            return "held"
        if not self.report.complete:
            return "incomplete"
        return "dry_run" if self.report.dry_run else "success"

    def _end(self, outcome: Outcome, elapsed_s: float) -> None:
        """Where every sweep ends."""
        self.has_ended = True
        report, options = self.report, self._options
        report.complete = report.complete and outcome in ("success", "dry_run")
        if outcome == "failed" and self.connected and not report.dry_run:
            report.cleanup_errors = max(1, report.cleanup_errors)
        self._publish()
        report.add(options.previous)
        if outcome == "success" and not report.complete:
            outcome = "incomplete"  # what an attempt before this one lost sight of is not known
        report.finish(elapsed_s)
        if outcome not in ("retried", "refused") and (outcome != "failed" or self.connected):
            log_report(report)
        if outcome == "failed" and report.failure:
            log_failure(report.failure, connected=self.connected)
        log_summary(report, outcome, options.log_format)
        found: dict[str, Any] = {"interval_s": options.beat_interval_s}
        if outcome in ("success", "incomplete", "dry_run", "held"):  # it came to its end
            found["duration_s"] = report.execution_time_ms / 1000
            found["fallback_reason"] = report.fallback_reason
            if not report.dry_run:
                found["unreadable"] = report.unreadable_by_reason
                found["last"] = {
                    "stale": report.stale_coordinators_found,
                    "orphaned": report.orphaned_coordinators_found,
                    "held": outcome == "held",
                }
        CHANNEL.call("end", report.target, outcome, report.implementation, **found)

    def _publish(self) -> None:
        """Have the metrics' counters grow by what the report grew by since the last time."""
        if self.report.dry_run:
            return
        total = self.report.model_copy()
        total.add(self._options.previous)
        by = {field: getattr(total, field) - self._published[field] for field in HANDED_ON}
        grown = {field: more for field, more in by.items() if more > 0}
        if grown:
            CHANNEL.call("grow", total.target, **{field: grown[field] for field in grown.keys() & FIGURES})
            self._published.update(grown)  # adds
