"""Tasks that belong to the host's application where there is one, and to ours where there is none."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import celery
from celery import Celery, _state
from celery.loaders.default import Loader as DefaultLoader
from celery.local import Proxy

OURS = "cleanup_tasks.celery"


def shared_task(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As Celery's decorator, but where the process has no application the task is ours, see `application`."""

    def register(function: Callable[..., Any]) -> Any:
        celery.shared_task(name=name, **options)(function)
        return Proxy(lambda: application().tasks[name])

    return register


def application() -> Celery:
    """The application whose broker a task goes to, decided anew with each use.

    That is Celery's current application: the one that the worker runs, or that this process has made. In
    another thread than the one that made it Celery knows only its own default application; there it is the
    one that the process has. In a process that has none, and no configuration of Celery's default
    application either, it is ours.
    """
    current: Celery = celery.current_app._get_current_object()
    if not _is_default(current):
        return current
    ours = getattr(sys.modules.get(OURS), "app", None)
    made = [app for app in list(_state._get_active_apps()) if app is not ours and not _is_default(app)]
    if len(made) == 1:
        return made[0]
    if made or (ours is None and any(current.conf.table().values())):
        return current
    return import_module(OURS).app


def _is_default(app: Celery) -> bool:
    """Whether Celery has made it because nobody else has made one."""
    return isinstance(app.loader, DefaultLoader)
