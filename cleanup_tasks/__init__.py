"""Removes what dead coordinators leave in Redis, without touching a living one.

``from cleanup_tasks import app, cleanup, cleanup_fallback`` gives our Celery application and its two
tasks. Another application includes ``cleanup_tasks.tasks`` and never loads ours.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleanup_tasks.celery import app
    from cleanup_tasks.tasks import cleanup, cleanup_fallback

__all__ = ["app", "cleanup", "cleanup_fallback"]


def __getattr__(name: str) -> Any:
    """Load our application only when somebody asks for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.tasks")
    app = import_module(f"{__name__}.celery").app
    return app if name == "app" else app.tasks[f"{__name__}.{name}"]
