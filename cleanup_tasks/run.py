"""One run, whoever asks for it: settings, client, lock, engine, sweep, log."""

import time
import uuid

from redis.exceptions import NoPermissionError

from cleanup_tasks import acl, keys
from cleanup_tasks.endpoint import RELAY
from cleanup_tasks.engines import Engine, ScriptingRefused
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.lock import SweepLock
from cleanup_tasks.log import log_report, log_summary, logger, open_log_file
from cleanup_tasks.metrics import FIGURES, Outcome
from cleanup_tasks.options import Options
from cleanup_tasks.report import Earlier, Report
from cleanup_tasks.settings import Settings
from cleanup_tasks.sweep import Progress, Sweep, no_progress
from cleanup_tasks.topology import Topology, connect

#: Why a run that found the lock held did nothing.
LOCKED = "another sweep is running"


class Run:
    """A run of the cleanup; `report` says what it did, also after an exception."""

    #: Whether the server answered at all; where it did not, nothing was done.
    reached = False

    def __init__(
        self,
        settings: Settings,
        options: Options,
        *,
        fallback_reason: str | None = None,
        owner: str | None = None,
        earlier: Earlier | None = None,
        max_named: int | None = None,
    ) -> None:
        """With a `fallback_reason` the Python engine runs, else the Lua engine.

        `owner` is the lock's token, the same for all attempts of a task; `earlier` is what those before
        did; `max_named` is how many unreadable heartbeats the log names (None: all).
        """
        self._settings = settings
        self._options = options
        self._owner = owner or uuid.uuid4().hex
        self._earlier = earlier or Earlier()
        self._max_named = max_named
        self.report = self._new_report(fallback_reason)
        self._counted: dict[str, int] = {}

    def _new_report(self, fallback_reason: str | None) -> Report:
        threshold_s = self._options.stale_threshold_seconds
        if threshold_s is None:
            threshold_s = self._settings.cleanup_stale_threshold_seconds
        return Report(
            dry_run=self._options.dry_run,
            implementation="lua" if fallback_reason is None else "python",
            fallback_reason=fallback_reason,
            stale_threshold_seconds=threshold_s,
        )

    def sweep_or_fall_back(self, progress: Progress = no_progress) -> Report:
        """Sweep; where scripting is the trouble, with the Python engine in the same breath."""
        try:
            return self.sweep(progress)
        except ScriptingRefused as refusal:
            logger.warning("Falling back to the Python engine: %s", refusal)
            self.end("refused")
            self._earlier = self.report.earlier
            self.report = self._new_report(str(refusal))
            self._counted = {}
            return self.sweep(progress)

    def sweep(self, progress: Progress = no_progress) -> Report:
        """Sweep; a sweep that comes to its end is logged and counted, see `end`.

        Raises:
            ScriptingRefused: the Lua engine can't work on this server, the Python engine may.
            RedisError: anything else that went wrong there.
        """
        open_log_file(self._settings.log_path)
        started = time.perf_counter()
        try:
            with connect(self._settings.coordination_url, self._settings.tls) as servers:
                self._sweep(servers, progress)
        except NoPermissionError as error:
            # The server doesn't say which key, so we say which ones are asked for.
            raise NoPermissionError(f"{error}; the user needs {acl.RULES}") from error
        finally:
            self._count()
            self.report.add(self._earlier)
            self.report.finish(time.perf_counter() - started)
        self.end(_outcome(self.report))
        return self.report

    def end(self, outcome: Outcome) -> None:
        """Tell log and metrics how the sweep ended; after an exception the caller knows how."""
        report = self.report
        if outcome not in ("retried", "refused", "failed"):
            log_report(report)
        log_summary(report, outcome, self._settings.cleanup_log_format)
        came_to_an_end = outcome in ("success", "incomplete", "dry_run")
        cleaned = outcome in ("success", "incomplete")
        RELAY.call(
            "end",
            outcome,
            report.implementation,
            duration_s=report.execution_time_ms / 1000 if came_to_an_end else None,
            stale=report.stale_coordinators_found if cleaned else None,
            orphaned=report.orphaned_coordinators_found if cleaned else None,
            fallback_reason=report.fallback_reason if came_to_an_end else None,
        )

    def _count(self) -> None:
        """Have the metrics' counters grow by what the report grew by since the last time."""
        if self.report.dry_run:
            return
        figures = {field: getattr(self.report, field) for field in FIGURES}
        grown = {field: value - self._counted.get(field, 0) for field, value in figures.items()}
        if any(grown.values()):
            RELAY.call("grow", **{field: amount for field, amount in grown.items() if amount})
        self._counted = figures

    def _sweep(self, servers: Topology, progress: Progress) -> None:
        report = self.report
        servers.reach()
        self.reached = True
        engine = servers.engine(LuaEngine if report.implementation == "lua" else PythonEngine)
        if report.dry_run:
            if servers.is_replica():
                logger.warning("Dry run on a replica: what it shows may lag behind its primary")
            self._make_sweep(servers, engine, progress).run()
            return
        with SweepLock(servers.client_for(keys.LOCK), self._owner) as lock:
            if not lock.acquire():
                report.skipped = LOCKED
                return

            def keep_lock(what: str, done: int, total: int) -> None:
                lock.renew()
                self._count()
                progress(what, done, total)

            self._make_sweep(servers, engine, keep_lock).run()

    def _make_sweep(self, servers: Topology, engine: Engine, progress: Progress) -> Sweep:
        return Sweep(
            servers,
            engine,
            self.report,
            progress,
            max_named=self._max_named,
            orphans=self._options.orphans or self._settings.cleanup_orphans,
            interval_s=self._settings.cleanup_interval_seconds,
        )


def _outcome(report: Report) -> Outcome:
    if report.skipped:
        return "skipped"
    if not report.complete:
        return "incomplete"
    return "dry_run" if report.dry_run else "success"
