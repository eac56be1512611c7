"""The way back to the queue that a message came from, by exchange and routing key alone."""

from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding

from cleanup_tasks.origin import way_back

TOPICS, DIRECT = Exchange("topics", type="topic"), Exchange("direct")
DELAYED = "0." * 26 + "1.0."
QUEUES = [
    Queue("plain"),
    Queue("exact", TOPICS, routing_key="exact.eu"),
    Queue("below", TOPICS, routing_key="below.#"),
    Queue("above", TOPICS, routing_key="#.above"),
    Queue("word", TOPICS, routing_key="word.*.us"),
    Queue("direct", DIRECT, routing_key="cleanup"),
    Queue("two", bindings=[binding(TOPICS, "two.one"), binding(DIRECT, "two.#")]),
]


def work() -> None:
    """What a task does."""


@pytest.mark.parametrize(
    ("exchange", "key", "expected"),
    [
        ("", "plain", "plain"),
        ("", "not.known", "not.known"),
        ("topics", "exact.eu", "exact"),
        ("topics", "below", "below"),
        ("topics", "below.a.b", "below"),
        ("topics", "above", "above"),
        ("topics", "a.b.above", "above"),
        ("topics", "word.a.us", "word"),
        ("direct", "cleanup", "direct"),
        ("topics", "two.one", "two"),
        # a message that was delayed
        ("celery_delayed_delivery", f"{DELAYED}below.a.b", "below"),
        ("shop_celery_delayed_delivery", f"{DELAYED}exact.eu", "exact"),
        # none of ours
        ("topics", "belowed", None),
        ("topics", "not.aabove", None),
        ("topics", "word.a.b.us", None),
        ("topics", "exactxeu", None),
        ("elsewhere", "exact.eu", None),
        ("direct", "exact.eu", None),
    ],
)
def test_way_back(exchange: str, key: str, expected: str | None) -> None:
    with Celery("shop", broker="memory://", set_as_current=False) as app:
        app.conf.task_queues = QUEUES
        task = app.task(name="any")(work)
        task.push_request(delivery_info={"exchange": exchange, "routing_key": key})
        found: dict[str, Any] = way_back(task)
        task.pop_request()
    assert found == ({"queue": expected} if expected else {"exchange": exchange, "routing_key": key})
