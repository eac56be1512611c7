"""The result backend that an application makes at its first use, and keeps."""

from typing import Any

from celery import Celery


def backend_of(app: Celery) -> Any:
    """The one that it has made, or None."""
    return app._backend_cache or getattr(app._local, "backend", None)


def forget_backend(app: Celery) -> None:
    """Have it make another one, from the settings of then."""
    app._backend_cache = None
    vars(app._local).pop("backend", None)
