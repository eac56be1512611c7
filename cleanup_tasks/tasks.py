"""The two Celery tasks: their arguments, retries, and the hand-over to the fallback.

``cleanup`` runs the Lua engine. Where scripting itself is refused or broken it retries, and the retried
attempt hands over to ``cleanup_fallback``, which runs the Python engine under the same id, so that the
caller's ``get()`` has the fallback's metrics. Where the connection or the server is the trouble, either
task is retried with backoff.
"""

from dataclasses import asdict
from typing import Any, NoReturn

from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import RedisError

import cleanup_tasks.worker  # noqa: F401, what else a worker that has these tasks does
from cleanup_tasks.arguments import Arguments, check_arguments, options_of
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.reporting.log import about, logger
from cleanup_tasks.reporting.report import DEFAULT_TARGET, PreviousAttempts
from cleanup_tasks.servers.errors import ScriptingRefused, is_transient
from cleanup_tasks.sweep.sweep import Sweep
from cleanup_tasks.targets import settings_of

#: Waits in seconds before each retry when the connection or the server is the trouble.
BACKOFF_S = (2, 4, 8)

#: Message headers that carry over to the next attempt.
FALLBACK_HEADER = "x-cleanup-fallback"
PREVIOUS_HEADER = "x-cleanup-earlier"
RETRIES_HEADER = "x-cleanup-retries"

#: Why the Python engine ran when nothing was wrong.
REQUESTED = "requested"


class CleanupTask(Task):
    """Refuses wrong arguments at the caller, before a message is sent."""

    #: Counted by us: Celery's counter mixes hand-overs with retries.
    max_retries = None
    #: The caller's mistake: no traceback in the worker's log.
    throws = (ValueError,)

    def apply_async(self, args: Any = None, kwargs: Any = None, **rest: Any) -> Any:
        """See celery.Task.apply_async; raises ValueError for an argument that is not what it should be."""
        check_arguments(**(kwargs or {}))
        return super().apply_async(args, kwargs, **rest)


@shared_task(bind=True, base=CleanupTask, name="cleanup_tasks.cleanup")
def cleanup(
    self: CleanupTask,
    *,
    dry_run: bool = False,
    stale_threshold_seconds: int | None = None,
    orphans: str | None = None,
    target: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Remove the keys of stale coordinators, by the Lua engine.

    Args:
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
        ValueError: an argument is not what it should be; nothing was touched.
        redis.exceptions.RedisError: the last of the retries failed too.
    """
    arguments = {
        "dry_run": dry_run,
        "stale_threshold_seconds": stale_threshold_seconds,
        "orphans": orphans,
        "target": target,
        "force": force,
    }
    checked = check_arguments(**arguments)
    if FALLBACK_HEADER in _headers(self):
        return _hand_over(self, arguments)
    return _attempt(self, checked, engine="lua", fallback_reason=None)


@shared_task(bind=True, base=CleanupTask, name="cleanup_tasks.cleanup_fallback")
def cleanup_fallback(
    self: CleanupTask,
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
    checked = check_arguments(
        dry_run=dry_run,
        stale_threshold_seconds=stale_threshold_seconds,
        orphans=orphans,
        target=target,
        force=force,
    )
    reason = _headers(self).get(FALLBACK_HEADER, REQUESTED)
    return _attempt(self, checked, engine="python", fallback_reason=reason)


def _attempt(
    task: CleanupTask, arguments: Arguments, *, engine: EngineName, fallback_reason: str | None
) -> dict[str, Any]:
    with about(arguments.target or DEFAULT_TARGET):
        return _sweep(task, arguments, engine, fallback_reason)


def _sweep(
    task: CleanupTask, arguments: Arguments, engine: EngineName, fallback_reason: str | None
) -> dict[str, Any]:
    settings = settings_of(arguments.target)
    retries = _headers(task).get(RETRIES_HEADER, 0)
    is_alone = task.request.called_directly or task.request.is_eager  # nobody there who could retry
    options = options_of(
        settings,
        arguments,
        engine=engine,
        fallback_reason=fallback_reason,
        owner=task.request.id or "",
        previous=PreviousAttempts(**_headers(task).get(PREVIOUS_HEADER, {})),
        is_retried=not is_alone and retries < len(BACKOFF_S),
    )
    if is_alone:
        return sweep_or_fall_back(options).report.metrics(settings.cleanup_max_reported_ids)
    sweep = Sweep(options)
    try:
        sweep.run()
    except SoftTimeLimitExceeded:
        logger.warning("Cleanup stopped by its soft time limit; the next one goes on")
    except ScriptingRefused as refusal:
        logger.warning("Handing over to cleanup_fallback: %s", refusal)
        _retry(task, sweep, refusal, countdown=0, headers={FALLBACK_HEADER: str(refusal)})
    except RedisError as error:
        if not (options.is_retried and is_transient(error)):
            logger.error("Cleanup failed: %s", error)
            raise
        logger.warning("Cleanup is tried again in %d s: %s", BACKOFF_S[retries], error)
        _retry(task, sweep, error, countdown=BACKOFF_S[retries], headers={RETRIES_HEADER: retries + 1})
    return sweep.report.metrics(settings.cleanup_max_reported_ids)


def _headers(task: CleanupTask) -> dict[str, Any]:
    return dict(task.request.headers or {})


def _retry(
    task: CleanupTask, sweep: Sweep, error: Exception, *, countdown: int, headers: dict[str, Any]
) -> NoReturn:
    carried = {PREVIOUS_HEADER: asdict(sweep.report.done_for_good())}
    raise task.retry(exc=error, countdown=countdown, headers={**_headers(task), **carried, **headers})


def _hand_over(task: CleanupTask, arguments: dict[str, Any]) -> NoReturn:
    """Replace this attempt by the fallback; what `replace` would drop is passed on by hand."""
    request = task.request
    soft_time_limit, time_limit = reversed(request.timelimit or (None, None))
    fallback = task.app.tasks[cleanup_fallback.name].s(**arguments)
    came_by = request.delivery_info or {}
    # to where this message came from: with the default exchange the routing key is the queue's name
    way = ("exchange", "routing_key") if came_by.get("exchange") else ("routing_key",)
    fallback.set(
        **{"queue" if len(way) == 1 else name: came_by.get(name) for name in way},
        priority=came_by.get("priority"),
        expires=request.expires,
        soft_time_limit=soft_time_limit,
        time_limit=time_limit,
        headers=_headers(task),
        ignore_result=request.ignore_result,
        retries=request.retries,
    )
    raise task.replace(fallback)
