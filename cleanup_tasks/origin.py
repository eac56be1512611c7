"""Where a message came from, so that the next one about the same cleanup goes there too."""

from typing import Any

from celery import Task

#: How the exchanges are called by which RabbitMQ delays messages of quorum queues; each message that was
#: delayed comes by one of them, and its routing key has a prefix.
DELAYED = "celery_delayed_"


def way_back(task: Task) -> dict[str, Any]:
    """The options of apply_async that lead to the queue which the running task's message came from.

    Celery's own retry takes exchange and routing key. Where RabbitMQ delays it that is not enough: it would
    go to the queue of the task's route.
    """
    came_by = task.request.delivery_info or {}
    exchange, key = came_by.get("exchange"), came_by.get("routing_key")
    if not exchange:
        # with the default exchange the routing key is the queue's name
        return {"queue": key}
    names = [
        queue.name
        for queue in task.app.amqp.queues.consume_from.values()
        if exchange == queue.exchange.name or exchange.startswith(DELAYED)
        if f".{key}".endswith(f".{queue.routing_key}")
    ]
    return {"queue": names[0]} if len(names) == 1 else {"exchange": exchange, "routing_key": key}
