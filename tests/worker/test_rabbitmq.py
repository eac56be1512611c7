"""Our own fleet and somebody else's on RabbitMQ, with classic and quorum queues, and results as messages."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import PreconditionFailed
from celery import Celery
from kombu import Connection, Exchange, Queue
from redis import Redis

from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, wait_until
from demo.stack import Stack
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ, running_rabbitmq

pytestmark = pytest.mark.debian

QUEUES = ("cleanup", "aside", "shop", "maintenance")
#: What an application sets for quorum queues.
QUORUM = {
    "task_default_queue_type": "quorum",
    "task_create_missing_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "task_create_missing_queue_exchange_type": "topic",
}
CONFIRMED = {"broker_transport_options": {"confirm_publish": True}}


@pytest.fixture(scope="module")
def started() -> Iterator[RabbitMQ]:
    """One broker for all tests."""
    with running_rabbitmq() as rabbitmq:
        yield rabbitmq


@pytest.fixture
def rabbitmq(started: RabbitMQ) -> RabbitMQ:
    """Without a queue of an earlier test's."""
    with Connection(started.url) as connection, connection.channel() as channel:
        for name in QUEUES:
            channel.queue_delete(name)
            channel.exchange_delete(name)
    return started


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """In front of the coordination Redis."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def stale(client: Redis) -> Iterator[Redis]:
    """Ten stale coordinators, on a server that may refuse scripts until the test ends."""
    write_coordinators(client, [b"stale-%d" % n for n in range(10)], STALE_AGE_MS)
    yield client
    permit_scripts(client, True)


def permit_scripts(client: Redis, permitted: bool) -> None:
    client.acl_setuser("default", enabled=True, commands=["+evalsha" if permitted else "-evalsha"])


@contextlib.contextmanager
def calling(rabbitmq: RabbitMQ, settings: dict[str, Any]) -> Iterator[Celery]:
    """A caller whose results are messages."""
    with Celery(broker=rabbitmq.url, backend="rpc://", set_as_current=False) as caller:
        caller.conf.update(settings)
        try:
            yield caller
        finally:
            # what Celery leaves open
            with contextlib.suppress(AttributeError):
                caller.backend.result_consumer.stop()


@pytest.fixture(params=["classic", "quorum"])
def ours(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQ, server: Server, proxy: Proxy, tmp_path: Path
) -> Iterator[tuple[Stack, Celery]]:
    """Our own fleet with one kind of queue, and a caller."""
    environment = {
        "COORDINATION_REDIS_URL": proxy.url,
        "COORDINATION_REDIS_URL__ASIDE": server.url,
        "CELERY_BROKER_URL": rabbitmq.url,
        "CELERY_RESULT_BACKEND": "rpc://",
        "CELERY_TASK_DEFAULT_QUEUE_TYPE": request.param,
        "CELERY_BROKER_TRANSPORT_OPTIONS": json.dumps(CONFIRMED["broker_transport_options"]),
    }
    is_quorum = request.param == "quorum"
    with (
        Stack(environment, tmp_path) as stack,
        calling(rabbitmq, CONFIRMED | (QUORUM if is_quorum else {})) as caller,
    ):
        stack.start_worker()
        with Connection(rabbitmq.url) as connection, connection.channel() as channel:
            kind = {"x-queue-type": "classic" if is_quorum else "quorum"}
            with pytest.raises(PreconditionFailed, match="inequivalent arg 'x-queue-type'"):
                channel.queue_declare("cleanup", durable=True, auto_delete=False, arguments=kind)
        yield stack, caller


def send(caller: Celery, task: str = "cleanup", *, queue: str = "cleanup", **options: Any) -> Any:
    return caller.send_task(f"cleanup_tasks.{task}", queue=queue, **options)


def done(result: Any) -> tuple[str, int]:
    metrics = result.get(timeout=60)
    return metrics["implementation"], metrics["keysDeleted"]


@pytest.mark.parametrize("countdown", [None, 3])
@pytest.mark.parametrize("queue", ["cleanup", "aside"])
def test_what_was_tried_again_and_handed_over(
    queue: str, countdown: int | None, ours: tuple[Stack, Celery], stale: Redis, proxy: Proxy
) -> None:
    """All attempts take the same queue, and the result comes to the caller."""
    stack, caller = ours
    if queue == "aside":
        stack.start_worker("aside", "--queues", "aside")
        # nobody else would have it
        stack.stop("worker")
    log = "worker" if queue == "cleanup" else "aside"
    permit_scripts(stale, False)
    proxy.refusing = True
    result = send(caller, queue=queue, countdown=countdown)
    stack.wait_for_line(log, "Retry in 4s")
    # the worker doesn't wait for it
    other = send(caller, queue=queue, kwargs={"target": "aside", "dry_run": True})
    assert done(other) == ("python", 60)
    assert not result.ready()
    proxy.refusing = False
    assert done(result) == ("python", 60)
    assert stale.dbsize() == 0
    stale.flushall()
    permit_scripts(stale, True)
    assert done(send(caller, queue=queue)) == ("lua", 0)


def test_beat(ours: tuple[Stack, Celery], stale: Redis) -> None:
    stack, _ = ours
    stack.start_beat()
    wait_until(lambda: not stale.exists("blocking:heartbeat:stale-0"), "beat's cleanup has run")
    stack.check()


def test_rabbitmq_starts_anew(
    ours: tuple[Stack, Celery], rabbitmq: RabbitMQ, stale: Redis, proxy: Proxy
) -> None:
    """A worker in the middle of a sweep goes on with what waits and with what comes."""
    stack, caller = ours
    proxy.cut_at(b"EVALSHA", 1 + 1, hold=True)  # the first call is a trial with nothing to do
    send(caller)
    wait_until(lambda: proxy.broken, "the sweep waits for an answer")
    tasks = [send(caller, kwargs={"dry_run": True}).id for _ in range(3)]
    rabbitmq.stop()
    stack.wait_for_line("worker", "Connection to broker lost")
    rabbitmq.start()
    for task in tasks:
        stack.wait_for_line("worker", f"[{task}] succeeded")
    with calling(rabbitmq, caller.conf.changes) as another:
        assert done(send(another, kwargs={"dry_run": True})) == ("lua", 0)
    stack.check()


@pytest.mark.parametrize(
    "settings",
    [
        QUORUM | CONFIRMED,
        # the queue of install() is a classic one beside quorum queues
        {"task_default_queue_type": "quorum"},
        CONFIRMED | {"task_queue_max_priority": 9, "worker_prefetch_multiplier": 1},
    ],
    ids=["quorum", "mixed", "priorities"],
)
def test_in_a_fleet_of_somebody_elses(
    settings: dict[str, Any], rabbitmq: RabbitMQ, proxy: Proxy, stale: Redis, tmp_path: Path
) -> None:
    environment = {
        "SHOP_BROKER": rabbitmq.url,
        "SHOP_RESULTS": "rpc://",
        "SHOP_SETTINGS": json.dumps(settings),
        "COORDINATION_REDIS_URL": proxy.url,
    }
    with (
        Stack(environment, tmp_path, app="tests.support.foreign") as stack,
        calling(rabbitmq, settings) as caller,
    ):
        start = (
            "worker",
            "worker",
            "--concurrency",
            "1",
            "--queues",
            "shop,maintenance",
            "--loglevel",
            "INFO",
        )
        proxy.refusing = True
        permit_scripts(stale, False)
        stack.start(*start)
        stack.wait_for_line("worker", "ready.")
        result = send(caller, queue="maintenance")
        stack.wait_for_line("worker", "Retry in 4s")
        proxy.refusing = False
        assert done(result) == ("python", 60)
        stack.stop("worker")
        # what waits is taken by priority, if the queue has any
        price = caller.send_task("tests.support.foreign.price", args=[1], queue="maintenance")
        write_coordinators(stale, [b"stale"], STALE_AGE_MS)
        result = send(caller, queue="maintenance", priority=5)
        stack.start(*start)
        assert done(result) == ("python", 6)
        assert price.get(timeout=60) == 3
        log = stack.log("worker")
        if "task_queue_max_priority" in settings:
            assert log.index(f"[{result.id}] succeeded") < log.index(f"[{price.id}] received")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("binding", ["cleanup.#", "*.eu.*"])
def test_a_queue_behind_a_topic_exchange(
    binding: str, kind: str, rabbitmq: RabbitMQ, proxy: Proxy, stale: Redis, tmp_path: Path
) -> None:
    """What is tried again, and the hand-over, go to the queue that the task came from."""
    environment = {
        "SHOP_BROKER": rabbitmq.url,
        "SHOP_RESULTS": "rpc://",
        "SHOP_BINDING": binding,
        "SHOP_QUEUE_TYPE": kind,
        "COORDINATION_REDIS_URL": proxy.url,
    }
    topics = Exchange("topics", type="topic")
    with (
        Stack(environment, tmp_path, app="tests.support.foreign") as stack,
        calling(rabbitmq, {}) as caller,
    ):
        caller.conf.task_queues = [
            Queue("aside", topics, routing_key=binding, queue_arguments={"x-queue-type": kind})
        ]
        proxy.refusing = True
        permit_scripts(stale, False)
        options = ("--concurrency", "1", "--queues", "aside", "--loglevel", "INFO")
        stack.start("worker", "worker", *options)
        stack.wait_for_line("worker", "ready.")
        result = send(caller, queue="aside", routing_key="cleanup.eu.now")
        stack.wait_for_line("worker", "Retry in 4s")
        proxy.refusing = False
        assert done(result) == ("python", 60)
