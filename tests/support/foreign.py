"""Somebody else's Celery application, with its own configuration; the test adds ours in three lines."""

import os

from celery import Celery, shared_task

app = Celery("shop", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_RESULTS"])
app.conf.task_default_queue = "shop"
app.conf.task_serializer = app.conf.result_serializer = "json"
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 4
app.conf.worker_send_task_events = False
app.conf.timezone = "Europe/Berlin"
# A fleet that repeats no task, unless it raised something.
app.conf.task_annotations = {"*": {"max_retries": 0, "autoretry_for": (Exception,), "rate_limit": "100/s"}}

# The three lines of docs/operations.md:
app.conf.include = ["cleanup_tasks.tasks"]
app.conf.task_routes = {"cleanup_tasks.*": {"queue": "maintenance"}}
app.conf.beat_schedule = {
    "cleanup": {"task": "cleanup_tasks.cleanup", "schedule": 2.0, "options": {"expires": 1.8}}
}


@shared_task  # type: ignore[untyped-decorator]
def price(apples: int) -> int:
    """A task of the shop's."""
    return 3 * apples


@shared_task  # type: ignore[untyped-decorator]
def careless(name: str, argument: object) -> None:
    """A task of the shop's that sends another with a positional argument."""
    app.tasks[name].delay(argument)
