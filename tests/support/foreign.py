"""Somebody else's Celery application, with everything of its own; the cleanup is added in its last line."""

import os

from celery import Celery, shared_task

from cleanup_tasks import install

app = Celery(
    "shop", broker=os.environ["SHOP_BROKER"], backend=os.environ.get("SHOP_RESULTS"), include=["colorsys"]
)
app.conf.task_default_queue = "shop"
app.conf.task_serializer = app.conf.result_serializer = "json"
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 4
app.conf.worker_send_task_events = False
app.conf.timezone = "Europe/Berlin"
app.conf.task_routes = [{"*.price": {"queue": "shop", "priority": 3}}, {"*": {"queue": "shop"}}]
# A fleet that repeats no task, unless it raised something.
app.conf.task_annotations = {"*": {"max_retries": 0, "autoretry_for": (Exception,), "rate_limit": "100/s"}}
app.conf.beat_schedule = {"price": {"task": "tests.support.foreign.price", "schedule": 1.0, "args": [1]}}


@shared_task  # type: ignore[untyped-decorator]
def price(apples: int) -> int:
    """A task of the shop's."""
    return 3 * apples


@shared_task  # type: ignore[untyped-decorator]
def careless(name: str, argument: object) -> None:
    """A task of the shop's that sends another with a positional argument."""
    app.tasks[name].delay(argument)


install(app, queue="maintenance", interval=2)
