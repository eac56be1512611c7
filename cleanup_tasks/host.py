"""Adds the cleanup to an application that is there already, and changes nothing else in it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.app.annotations import MapAnnotation
from celery.app.annotations import prepare as prepared_annotations
from celery.app.routes import MapRoute
from celery.app.routes import prepare as prepared_routes
from celery.schedules import schedule
from kombu.utils.functional import maybe_list

from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.targets import intervals
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.report import DEFAULT_TARGET
from cleanup_tasks.schedule import ENGINE_OF_TASK, MAX_INTERVAL_S, beat_entries, is_interval, time_limits

MODULE = "cleanup_tasks.tasks"
TASKS = tuple(ENGINE_OF_TASK)
DEFAULT_S = 300.0


def install(app: Celery, *, queue: str | None = None, interval: float | None = None) -> None:
    """Add our tasks to a Celery application: their module, route, time limits and beat entry.

    It is for the end of the module that makes the application. Whatever the application has stays as it is:
    other tasks, routes, annotations and entries, and time limits that it has for all tasks. To call it again
    with the same arguments changes nothing. Where Celery has not read the configuration yet, which it does
    once and late, this waits for it: handlers of the application and ``config_from_object`` may still come.
    An assignment to ``app.conf`` that comes after the configuration was read replaces what this has added.

    Args:
        app: the application.
        queue: the name of the queue that the tasks go to, which a worker has to consume; None for where the
            application's own routes send them.
        interval: seconds between two cleanups of a target. None for the one that its settings say, or 300;
            but where ``beat_schedule`` has a cleanup already, for nothing more than that.

    Raises:
        ValueError: a value is not what it should be, or the configuration was read already and says otherwise
            about our tasks; nothing was changed. One that is read later and says otherwise is a line of the
            level ERROR in the log.
    """
    if interval is not None and not is_interval(interval):
        raise ValueError(f"interval: a number of seconds, 1 to {MAX_INTERVAL_S}, not {interval!r}")
    if queue is not None and not (isinstance(queue, str) and queue):
        raise ValueError(f"queue: the name of a queue, not {queue!r}")
    # to read app.conf would have Celery read the configuration, ahead of what the application still says
    if app.configured:
        _add(app, queue, interval)

    def add(**_: Any) -> None:
        """Whenever Celery has read the configuration, each of which replaces the one before."""
        try:
            _add(app, queue, interval)
        except ValueError as conflict:
            logger.error("No cleanup was added to the configuration that was read last: %s", conflict)

    app.on_after_configure.disconnect(dispatch_uid=MODULE)
    app.on_after_configure.connect(add, weak=False, dispatch_uid=MODULE)


def _add(app: Celery, queue: str | None, interval: float | None) -> None:
    conf = app.conf
    swept_every = _intervals(interval)
    limits = time_limits(max(swept_every.values()))
    there = _limits_there(conf)
    entries = _entries(swept_every, limited=all(found == limits for found in there))
    conf.update(
        include=_include(conf),
        task_routes=_routes(conf, queue),
        task_annotations=conf.task_annotations if there else _annotations(conf, limits),
        beat_schedule=_schedule(conf, entries, is_asked_for=interval is not None),
    )
    if not there:
        _limit_what_is_there(app, limits)


def _limit_what_is_there(app: Celery, limits: Mapping[str, float]) -> None:
    """Also where Celery has read the annotations before, or has made our tasks."""
    app.__dict__.pop("annotations", None)
    for task in (app.tasks.get(name) for name in TASKS if app.finalized):
        for name, limit_s in limits.items() if task else ():
            if getattr(task, name) is None:
                setattr(type(task), name, limit_s)


def _intervals(interval: float | None) -> dict[str, float]:
    try:
        return {target: float(interval or own_s) for target, own_s in intervals().items()}
    except InvalidSettings:
        # each cleanup fails and says so, and the application works on
        return {DEFAULT_TARGET: float(interval or DEFAULT_S)}


def _entries(swept_every: Mapping[str, float], *, limited: bool) -> dict[str, dict[str, Any]]:
    """Those of our own beat, but with Celery's own schedule.

    Most beats keep their entries in a file, which has to be readable where this package is gone. The time of
    the last run is in it too, and spreads the targets over the interval; the first one is due at once.
    """
    entries = beat_entries(swept_every, limited=limited)
    for entry in entries.values():
        every, now = entry["schedule"], datetime.now(UTC)
        entry["schedule"] = schedule(every.seconds)
        entry["last_run_at"] = now - timedelta(seconds=every.seconds - every.offset_s)
    return entries


def _include(conf: Any) -> Any:
    there = maybe_list(conf.include) or ()
    if MODULE in (*there, *(maybe_list(conf.imports) or ())):
        return conf.include
    return [*there, MODULE] if isinstance(there, list) else (*there, MODULE)


def _routes(conf: Any, queue: str | None) -> Any:
    there = conf.task_routes
    if queue is None:
        return there
    queues = {getattr(known, "name", known) for known in conf.task_queues or ()}
    if not conf.task_create_missing_queues and queue not in {*queues, conf.task_default_queue}:
        raise ValueError(f"queue: task_queues has no {queue!r}, and task_create_missing_queues is off")
    maps = [router for router in prepared_routes(there) if isinstance(router, MapRoute)]
    ours = {}
    for task in TASKS:
        # a route for all tasks, as it is for one without a name, says nothing about ours
        given = [found for each in maps if (found := each(task)) not in (None, each(""))]
        route: dict[str, Any] = given[0] if given else {}
        if not {"queue", "exchange"} & set(route):
            ours[task] = {**route, "queue": queue}
        elif getattr(route.get("queue"), "name", route.get("queue")) != queue:
            raise ValueError(f"queue: task_routes has {route} for our tasks, not {queue!r}; leave one out")
    if not ours:
        return there
    if there is None or isinstance(there, Mapping):
        return {**(there or {}), **ours}
    # the first router that knows a task has it
    return [ours, *there] if isinstance(there, list) else (ours, *(maybe_list(there) or ()))


def _limits_there(conf: Any) -> list[dict[str, Any]]:
    """The time limits that the application has for our tasks, or for all."""
    known = [
        annotation
        for annotation in prepared_annotations(conf.task_annotations)
        if isinstance(annotation, MapAnnotation)
    ]
    given = [annotation[task] for annotation in known for task in ("*", *TASKS) if task in annotation]
    of_all = {"time_limit": conf.task_time_limit, "soft_time_limit": conf.task_soft_time_limit}
    limits = [{name: dict(one).get(name) for name in of_all} for one in (*given, of_all)]
    return [found for found in limits if any(found.values())]


def _annotations(conf: Any, limits: dict[str, float]) -> Any:
    there = conf.task_annotations
    if isinstance(there, Mapping):
        return {**there, **{task: {**limits, **dict(there.get(task, {}))} for task in TASKS}}
    ours = dict.fromkeys(TASKS, limits)
    return (*(there if isinstance(there, list | tuple) else filter(None, [there])), ours)


def _schedule(conf: Any, ours: dict[str, Any], *, is_asked_for: bool) -> dict[str, Any]:
    there = dict(conf.beat_schedule or {})
    if all(_without_last_run(there.get(name)) == _without_last_run(entry) for name, entry in ours.items()):
        return there
    theirs = [name for name, entry in there.items() if name in ours or _cleans(entry)]
    if theirs and is_asked_for:
        raise ValueError(f"interval: beat_schedule has a cleanup already, {', '.join(theirs)}; leave one out")
    return there if theirs else {**there, **ours}


def _without_last_run(entry: Any) -> Any:
    return {**entry, "last_run_at": None} if isinstance(entry, Mapping) else entry


def _cleans(entry: Any) -> bool:
    fields = entry if isinstance(entry, Mapping) else vars(entry)
    return fields.get("task") in TASKS and not (fields.get("kwargs") or {}).get("dry_run")
