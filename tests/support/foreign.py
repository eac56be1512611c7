"""Somebody else's Celery application, with everything of its own; the cleanup is added in its last line."""

import gc
import json
import locale
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from celery import Celery, Task, chain, chord, group, shared_task
from kombu import Exchange, Queue

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


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def careless(self: Task, name: str, argument: object, way: str) -> None:
    """A task of the shop's that sends another with a positional argument."""
    task = app.tasks[name]
    ways: dict[str, Callable[[], object]] = {
        "delay": lambda: task.delay(argument),
        "apply_async": lambda: task.apply_async((argument,), task_id=f"{name}-{self.request.id}"),
        "apply": lambda: task.apply((argument,)),
        "group": lambda: group(task.s(argument)).apply_async(),
        "chain": lambda: chain(price.s(1), task.si(argument)).apply_async(),
        "chord": lambda: chord([price.s(1), price.s(2)], task.si(argument)).apply_async(),
        "link": lambda: price.apply_async((1,), link=task.si(argument)),
        "si": lambda: task.si(argument).apply_async(),
        "replace": lambda: self.replace(task.s(argument)),
    }
    ways[way]()


@shared_task  # type: ignore[untyped-decorator]
def state() -> dict[str, str]:
    """What is the process's, and so the shop's, in its worker."""
    found = {
        "garbage collection": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "logging": (logging.root.level, logging.root.handlers, logging.root.manager.disable),
        "log levels": {
            name: (known.level, known.handlers, known.propagate, known.disabled)
            for name, known in logging.root.manager.loggerDict.items()
            if isinstance(known, logging.Logger)
            and "cleanup_tasks" not in name
            # one that a library asked for since, and nobody changed
            and (known.level or known.handlers or known.disabled or not known.propagate)
        },
        "warnings": warnings.filters,
        "time zone": (os.environ.get("TZ"), time.tzname, app.conf.timezone),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "sockets": socket.getdefaulttimeout(),
        "excepthook": threading.excepthook,
        "configuration": app.conf.table(with_defaults=True, censored=False),
    }
    return {name: repr(value) for name, value in found.items()}


app.conf.update(json.loads(os.environ.get("SHOP_SETTINGS", "{}")))
if key := os.environ.get("SHOP_BINDING"):
    topics, kind = Exchange("topics", type="topic"), {"x-queue-type": os.environ["SHOP_QUEUE_TYPE"]}
    app.conf.task_queues = [
        Queue("shop"),
        Queue("maintenance"),
        Queue("aside", topics, routing_key=key, queue_arguments=kind),
    ]
if os.environ.get("SHOP_GARBAGE_COLLECTION") == "off":
    gc.disable()
install(app, queue="maintenance", interval=float(os.environ.get("SHOP_INTERVAL", "2")))
