"""Removes what dead coordinators leave in Redis, without touching a living one.

``from cleanup_tasks import cleanup, cleanup_fallback`` gives the two tasks. They belong to the Celery
application of the process that uses them, as any shared task does, or to ours where there is none: in a
Python shell of our own fleet ``cleanup.delay(dry_run=True)`` goes to the broker of ``CELERY_BROKER_URL``.
``install(app)`` adds them to an application that is there already. ``app`` is our own, which is loaded only
where somebody asks for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleanup_tasks.celery import app
    from cleanup_tasks.host import install
    from cleanup_tasks.tasks import cleanup, cleanup_fallback

__all__ = ["app", "cleanup", "cleanup_fallback", "install"]

_MODULES = {"app": "celery", "cleanup": "tasks", "cleanup_fallback": "tasks", "install": "host"}


def __getattr__(name: str) -> Any:
    """Load what somebody asks for, and nothing else."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
