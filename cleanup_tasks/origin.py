"""Where a message came from, so that the next one about the same cleanup goes there too."""

import re
from typing import Any

from celery import Task
from kombu.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE

#: What the exchanges are called by which RabbitMQ delays messages of quorum queues; each message that was
#: delayed comes by one of them, and its routing key has a prefix.
_DELAYED = "celery_delayed_"
_PREFIX = re.compile(rf"^(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}")
#: The wildcards of a binding to a topic exchange, as `re.escape` leaves them: one word, or any number.
_WILDCARDS = {r"\.\#": r"(?:\..+)?", r"\#\.": r"(?:.+\.)?", r"\#": ".*", r"\*": r"[^.]+"}


def way_back(task: Task) -> dict[str, Any]:
    """The options of apply_async that lead to the queue which the running task's message came from.

    Celery's own retry takes exchange and routing key. Where RabbitMQ delays it that is not enough: it would
    go to the queue of the task's route. And the broker Redis knows no exchange of a queue that the sender has
    not declared, which it does for the queue that it is given.
    """
    came_by = task.request.delivery_info or {}
    exchange, key = came_by.get("exchange"), came_by.get("routing_key") or ""
    if not exchange:
        # with the default exchange the routing key is the queue's name
        return {"queue": key}
    is_delayed = _DELAYED in exchange
    own_key = _PREFIX.sub("", key, count=1) if is_delayed else key
    for queue in task.app.amqp.queues.consume_from.values():
        for bound in (queue, *queue.bindings):
            if (is_delayed or exchange == bound.exchange.name) and _matches(bound.routing_key, own_key):
                # where there are several it has had a copy, and the same worker has them all
                return {"queue": queue.name}
    return {"exchange": exchange, "routing_key": key}


def _matches(binding: str, key: str) -> bool:
    pattern = re.escape(binding or "")
    for wildcard, regex in _WILDCARDS.items():
        pattern = pattern.replace(wildcard, regex)
    return re.fullmatch(pattern, key) is not None
