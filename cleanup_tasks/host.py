"""Adds the cleanup to an application that is there already, and changes nothing else in it."""

from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.app.annotations import MapAnnotation
from celery.app.annotations import prepare as prepared_annotations
from celery.app.routes import MapRoute
from celery.app.routes import prepare as prepared_routes
from kombu.utils.functional import maybe_list

from cleanup_tasks.environment import InvalidSettings
from cleanup_tasks.schedule import beat_entry
from cleanup_tasks.settings import IntervalSettings

MODULE = "cleanup_tasks.tasks"
CLEANUP = "cleanup_tasks.cleanup"
TASKS = (CLEANUP, "cleanup_tasks.cleanup_fallback")
ENTRY = "cleanup-blocking-coordination"
LIMITS = {"soft_time_limit", "time_limit"}
DEFAULT_S = 300.0


def install(app: Celery, *, queue: str | None = None, interval: float | None = None) -> None:
    """Add our tasks to a Celery application: their module, route, time limits and beat entry.

    It is for the end of the module that makes the application, after its configuration. Whatever the
    application has stays as it is: other tasks, routes, annotations and entries, and time limits that it has
    for all tasks. To call it again with the same arguments changes nothing.

    Args:
        app: the application.
        queue: the name of the queue that the tasks go to, which a worker has to consume; None for where the
            application's own routes send them.
        interval: seconds between two cleanups. None for ``CLEANUP_INTERVAL_SECONDS``, or 300; but where
            ``beat_schedule`` has a cleanup already, for nothing more than that.

    Raises:
        ValueError: the application says otherwise about our tasks, or a value is not what it should be;
            nothing was changed.
    """
    if interval is not None and interval < 1:
        raise ValueError(f"interval: a number of seconds, 1 or more, not {interval}")
    conf = app.conf
    interval_s = float(interval or _interval_setting())
    conf.update(
        include=_include(conf),
        task_routes=_routes(conf, queue),
        task_annotations=_annotations(conf, interval_s),
        beat_schedule=_schedule(conf, interval_s, is_asked_for=interval is not None),
    )


def _interval_setting() -> float:
    try:
        return IntervalSettings.read().cleanup_interval_seconds
    except InvalidSettings:
        return DEFAULT_S  # each cleanup fails and says so, and the application works on


def _include(conf: Any) -> tuple[str, ...]:
    there = tuple(maybe_list(conf.include) or ())
    return there if MODULE in (*there, *(maybe_list(conf.imports) or ())) else (*there, MODULE)


def _routes(conf: Any, queue: str | None) -> Any:
    there = conf.task_routes
    if queue is None:
        return there
    queues = {getattr(known, "name", known) for known in conf.task_queues or ()}
    if not conf.task_create_missing_queues and queue not in {*queues, conf.task_default_queue}:
        raise ValueError(f"queue: task_queues has no {queue!r}, and task_create_missing_queues is off")
    maps = [router for router in prepared_routes(there) if isinstance(router, MapRoute)]
    # a route for all tasks, as it is for one without a name, says nothing about ours
    given = [route for each in maps for task in TASKS if (route := each(task)) not in (None, each(""))]
    for route in given:
        if getattr(route.get("queue"), "name", route.get("queue")) != queue:
            raise ValueError(f"queue: task_routes has {route} for our tasks, not {queue!r}; leave one out")
    if len(given) >= len(TASKS):
        return there
    ours = {task: {"queue": queue} for task in TASKS}
    if isinstance(there, Mapping):
        return {**there, **ours}
    # the first router that knows a task has it
    return (ours, *(there if isinstance(there, list | tuple) else filter(None, [there])))


def _annotations(conf: Any, interval_s: float) -> Any:
    there = conf.task_annotations
    known = [
        annotation for annotation in prepared_annotations(there) if isinstance(annotation, MapAnnotation)
    ]
    given = [annotation[task] for annotation in known for task in ("*", *TASKS) if task in annotation]
    if conf.task_time_limit or conf.task_soft_time_limit or any(LIMITS & set(dict(one)) for one in given):
        return there
    # Both below the interval, so that a stuck run never meets the next one.
    limits = {"soft_time_limit": 0.8 * interval_s, "time_limit": 0.9 * interval_s}
    if isinstance(there, Mapping):
        return {**there, **{task: {**limits, **dict(there.get(task, {}))} for task in TASKS}}
    ours = dict.fromkeys(TASKS, limits)
    return (*(there if isinstance(there, list | tuple) else filter(None, [there])), ours)


def _schedule(conf: Any, interval_s: float, *, is_asked_for: bool) -> dict[str, Any]:
    there = dict(conf.beat_schedule or {})
    ours = beat_entry(interval_s)
    if there.get(ENTRY) == ours:
        return there
    theirs = [name for name, entry in there.items() if name == ENTRY or _cleans(entry)]
    if theirs and is_asked_for:
        raise ValueError(f"interval: beat_schedule has a cleanup already, {', '.join(theirs)}; leave one out")
    return there if theirs else {**there, ENTRY: ours}


def _cleans(entry: Any) -> bool:
    fields = entry if isinstance(entry, Mapping) else vars(entry)
    return fields["task"] in TASKS and not (fields.get("kwargs") or {}).get("dry_run")
