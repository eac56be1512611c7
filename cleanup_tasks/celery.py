"""The Celery application, for ``celery -A cleanup_tasks``."""

from celery import Celery

import cleanup_tasks.beat_health  # noqa: F401, a beat of ours leaves its sign of life

#: Not made the current app: somebody else's app that includes our tasks stays in charge.
app = Celery("cleanup_tasks", include=["cleanup_tasks.tasks"], set_as_current=False)
app.config_from_object("celeryconfig")
