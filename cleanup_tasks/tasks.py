"""The two Celery tasks: their arguments, retries, and the hand-over to the fallback.

``cleanup`` runs the Lua engine. Where scripting itself is refused or broken it retries, and the retried
attempt hands over to ``cleanup_fallback``, which runs the Python engine under the same id, so that the
caller's ``get()`` has the fallback's metrics. Where the connection or the server is the trouble, either
task is retried with backoff.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import RedisError

import cleanup_tasks.worker  # noqa: F401, what else a worker does
from cleanup_tasks.attempt import Attempt
from cleanup_tasks.configuration.arguments import Arguments, check_arguments, options_of
from cleanup_tasks.configuration.targets import settings_of
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.keywords_only import KeywordsOnly
from cleanup_tasks.origin import way_back
from cleanup_tasks.reporting.exporter import CHANNEL
from cleanup_tasks.reporting.log import about, log_failure, logger
from cleanup_tasks.reporting.report import DEFAULT_TARGET, REQUESTED
from cleanup_tasks.schedule import CLEANUP, ENGINE_OF_TASK, FALLBACK, interval_of
from cleanup_tasks.servers.errors import ScriptingRefused, is_transient
from cleanup_tasks.shared import shared_task
from cleanup_tasks.sweep.sweep import Sweep

#: Waits in seconds before each retry when the connection or the server is the trouble.
BACKOFF_S = (2, 4, 8)
#: Targets whose last attempt in this process failed without ever connecting. What beat sends anew for them
#: has one attempt, for beat will ask again, and other targets wait for this process.
_unreachable: set[str] = set()


class CleanupTask(KeywordsOnly):
    """What both tasks have in common."""

    #: The caller's mistake: no traceback in the worker's log.
    throws = (TypeError, ValueError)
    #: Characters of a result that Flower and the worker's log get: room for all metrics and their ids.
    resultrepr_maxsize = 8_192

    @contextlib.contextmanager
    def telling(self, target: str | None = None) -> Iterator[None]:
        """In a worker, log what is refused, for the caller may be a beat; count it for a target, if any."""
        try:
            yield
        except ValueError as error:
            if not self.is_alone:
                log_failure(str(error), connected=True)
                if target is not None:
                    interval_s = interval_of(self.request.headers)
                    CHANNEL.call("end", target, "failed", self.engine, interval_s=interval_s)
            raise

    @property
    def engine(self) -> EngineName:
        """The engine that the task runs."""
        return ENGINE_OF_TASK[self.name]

    @property
    def is_alone(self) -> bool:
        """Whether it runs in the caller's process, where nobody could retry."""
        return bool(self.request.called_directly or self.request.is_eager)


#: As an option this wins over the application's annotations: these tasks have retries of their own.
OF_BOTH = {"bind": True, "base": CleanupTask, "autoretry_for": ()}


@shared_task(CLEANUP, **OF_BOTH)
def cleanup(
    self: CleanupTask,
    previous_result: object = None,
    /,
    *,
    dry_run: bool = False,
    stale_threshold_seconds: int | None = None,
    orphans: str | None = None,
    target: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Remove the keys of stale coordinators, by the Lua engine.

    Args:
        previous_result: what a chain, a link or a chord passes on; it is ignored.
        dry_run: change nothing, only report what a real run would do.
        stale_threshold_seconds: silence in whole seconds after which a coordinator counts as dead;
            None for the setting.
        orphans: ``off``, ``report`` or ``reap`` coordinators of which only related keys are left;
            None for the setting.
        target: the name of the coordination Redis; None for ``default``.
        force: go on where a sweep would be held since nobody seems to be alive.

    Returns:
        The metrics dict.

    Raises:
        ValueError, TypeError: an argument is not what it should be; nothing was touched.
        redis.exceptions.RedisError: the last of the retries failed too.
    """
    return _run(
        self,
        previous_result,
        dry_run=dry_run,
        stale_threshold_seconds=stale_threshold_seconds,
        orphans=orphans,
        target=target,
        force=force,
    )


@shared_task(FALLBACK, **OF_BOTH)
def cleanup_fallback(
    self: CleanupTask,
    previous_result: object = None,
    /,
    *,
    dry_run: bool = False,
    stale_threshold_seconds: int | None = None,
    orphans: str | None = None,
    target: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Remove the keys of stale coordinators, by the Python engine, which needs no scripting.

    Arguments, result and exceptions are those of `cleanup`.
    """
    return _run(
        self,
        previous_result,
        dry_run=dry_run,
        stale_threshold_seconds=stale_threshold_seconds,
        orphans=orphans,
        target=target,
        force=force,
    )


def _run(task: CleanupTask, previous_result: object, **given: object) -> dict[str, Any]:
    if not task.request.parent_id:
        task.refuse([] if previous_result is None else [previous_result])
    with task.telling():
        arguments = check_arguments(**given)
    attempt = Attempt.read(task.request.headers)
    if task.engine == "lua" and attempt.fallback_reason is not None:
        _hand_over(task, arguments)
    if task.engine == "python" and attempt.fallback_reason is None:
        attempt = replace(attempt, fallback_reason=REQUESTED)
    with about(arguments.target or DEFAULT_TARGET):
        return _sweep(task, arguments, attempt)


def _sweep(task: CleanupTask, arguments: Arguments, attempt: Attempt) -> dict[str, Any]:
    target = arguments.target or DEFAULT_TARGET
    with task.telling(target):
        settings = settings_of(target)[target]
    beat_interval_s = interval_of(task.request.headers)
    is_patient = beat_interval_s is None or attempt.retries > 0 or target not in _unreachable
    options = options_of(
        settings,
        arguments,
        engine=task.engine,
        fallback_reason=attempt.fallback_reason,
        beat_interval_s=beat_interval_s,
        previous=attempt.previous,
        previous_owner=attempt.owner,
        is_retried=not task.is_alone and is_patient and attempt.retries < len(BACKOFF_S),
    )
    if task.is_alone:
        return sweep_or_fall_back(options).report.metrics(settings.cleanup_max_reported_ids)
    sweep = Sweep(options)
    try:
        sweep.run()
    except SoftTimeLimitExceeded:
        logger.warning("Cleanup stopped by its soft time limit; the next one goes on")
    except ScriptingRefused as refusal:
        logger.warning("Handing over to cleanup_fallback: %s", refusal)
        _retry(task, sweep, refusal, 0, replace(attempt, owner=options.owner, fallback_reason=str(refusal)))
    except RedisError as error:
        if not (options.is_retried and is_transient(error)):
            raise
        wait_s = BACKOFF_S[attempt.retries]
        logger.warning("Cleanup is tried again in %d s: %s", wait_s, error)
        retries = attempt.retries + 1
        _retry(task, sweep, error, wait_s, replace(attempt, owner=options.owner, retries=retries))
    finally:
        (_unreachable.discard if sweep.connected else _unreachable.add)(target)
    return sweep.report.metrics(settings.cleanup_max_reported_ids)


def _retry(task: CleanupTask, sweep: Sweep, error: Exception, wait_s: int, attempt: Attempt) -> NoReturn:
    attempt = replace(attempt, previous=sweep.so_far())
    raise task.retry(
        # without the result of the task before, if any
        args=(),
        exc=error,
        countdown=wait_s,
        **way_back(task),
        headers={**(task.request.headers or {}), **attempt.headers()},
        # Counted by us: Celery's counter mixes hand-overs with retries, and an application may allow none.
        max_retries=task.request.retries + 1,
    )


def _hand_over(task: CleanupTask, arguments: Arguments) -> NoReturn:
    """Replace this attempt by the fallback; what `replace` would drop is passed on by hand."""
    request = task.request
    soft_time_limit, time_limit = reversed(request.timelimit or (None, None))
    fallback = task.app.tasks[FALLBACK].s(**arguments.model_dump(exclude_defaults=True))
    fallback.set(
        **way_back(task),
        priority=(request.delivery_info or {}).get("priority"),
        # where the caller waits, if results are messages; the fallback's would come to this worker
        reply_to=request.reply_to,
        expires=request.expires,
        soft_time_limit=soft_time_limit,
        time_limit=time_limit,
        headers=request.headers,
        ignore_result=request.ignore_result,
        retries=request.retries,
    )
    raise task.replace(fallback)
