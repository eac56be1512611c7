"""Brokers and result backends that a host may have: what pip can bring, beside Redis with Redis."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker
from kombu import Exchange, Queue
from redis import Redis

from cleanup_tasks import install
from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, free_port, running_server, wait_until
from demo.stack import Stack


def ten_stale(client: Redis) -> None:
    """Write ten stale coordinators, and nothing else."""
    client.flushall()
    write_coordinators(client, [b"stale-%d" % n for n in range(10)], STALE_AGE_MS)


@pytest.mark.parametrize(
    ("broker_url", "backend_url"),
    [
        ("filesystem://", None),
        ("filesystem://", "file://{folder}/results"),
        ("redis://", None),
        ("redis://", "file://{folder}/results"),
        ("redis://", "rpc://"),
    ],
)
def test_a_broker_and_a_backend(
    broker_url: str, backend_url: str | None, broker: Server, tmp_path: Path
) -> None:
    for name in ("messages", "control", "results"):
        (tmp_path / name).mkdir()
    in_files = {
        "polling_interval": 0.1,
        "data_folder_in": str(tmp_path / "messages"),
        "data_folder_out": str(tmp_path / "messages"),
        "control_folder": str(tmp_path / "control"),
    }
    options = in_files if broker_url == "filesystem://" else {}
    url = f"{broker.url}/3" if broker_url == "redis://" else broker_url
    environment = {
        "SHOP_BROKER": url,
        "SHOP_SETTINGS": json.dumps({"broker_transport_options": options}),
        "CLEANUP_LOG_FILE": "",
    }
    if backend_url is not None:
        environment["SHOP_RESULTS"] = backend_url = backend_url.format(folder=tmp_path)
    with (
        running_server() as coordination,
        coordination.client() as client,
        Celery(broker=url, backend=backend_url, set_as_current=False) as caller,
        Stack(
            environment | {"COORDINATION_REDIS_URL": coordination.url}, tmp_path, app="tests.support.foreign"
        ) as stack,
    ):
        caller.conf.update(broker_transport_options=options, result_serializer="json")
        stack.start("worker", "worker", "--pool", "threads", "--queues", "maintenance", "--loglevel", "INFO")
        for task, refused, engine in (
            ("cleanup", False, "lua"),
            ("cleanup", True, "python"),
            ("cleanup_fallback", False, "python"),
        ):
            ten_stale(client)
            client.acl_setuser("default", enabled=True, commands=["-evalsha" if refused else "+evalsha"])
            result = caller.send_task(f"cleanup_tasks.{task}", queue="maintenance")
            if backend_url is not None:
                metrics = result.get(timeout=60)
                assert (metrics["implementation"], metrics["keysDeleted"]) == (engine, 60)
            wait_until(lambda: client.dbsize() == 0, f"{task} has cleaned", 60)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """A worker in this process leaves its logging alone: tests after this one look at what is logged."""

    def nothing(**_: Any) -> None:
        pass

    signals.setup_logging.connect(nothing)
    yield
    signals.setup_logging.disconnect(nothing)


def test_all_in_memory(
    server: Server, client: Redis, monkeypatch: pytest.MonkeyPatch, own_logging: None
) -> None:
    """As the tests of a host have it: broker, worker and backend in one process."""
    monkeypatch.setenv("COORDINATION_REDIS_URL", server.url)
    with Celery(broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        install(app)
        app.conf.broker_transport_options = {"polling_interval": 0.1}
        app.loader.import_default_modules()
        with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
            for task, engine in (("cleanup", "lua"), ("cleanup_fallback", "python")):
                ten_stale(client)
                metrics = app.tasks[f"cleanup_tasks.{task}"].delay().get(timeout=60)
                assert (metrics["implementation"], metrics["keysDeleted"]) == (engine, 60)


def test_eagerly(server: Server, client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_URL", server.url)
    with Celery(set_as_current=False) as app:
        install(app)
        app.conf.update(task_always_eager=True, task_eager_propagates=True)
        app.loader.import_default_modules()
        client.acl_setuser("default", enabled=True, commands=["-evalsha"])
        try:
            ten_stale(client)
            metrics = app.tasks["cleanup_tasks.cleanup"].delay().get(timeout=60)
        finally:
            client.acl_setuser("default", enabled=True, commands=["+evalsha"])
    assert (metrics["implementation"], metrics["keysDeleted"]) == ("python", 60)


@pytest.mark.parametrize("binding", ["cleanup.#", "*.eu.*", "#", "cleanup.eu.now"])
def test_a_queue_behind_a_topic_exchange(
    binding: str, server: Server, client: Redis, broker: Server, tmp_path: Path
) -> None:
    """Retries and the hand-over go to the queue that the task came from, whatever its route is."""
    url = f"{broker.url}/3"
    environment = {
        "SHOP_BROKER": url,
        "SHOP_RESULTS": url,
        "SHOP_BINDING": binding,
        "SHOP_QUEUE_TYPE": "classic",
        "COORDINATION_REDIS_URL": server.url,
    }
    topics = Exchange("topics", type="topic")
    with (
        broker.client(db=3) as messages,
        Celery(broker=url, backend=url, set_as_current=False) as caller,
        Stack(environment, tmp_path, app="tests.support.foreign") as stack,
    ):
        messages.flushall()
        caller.conf.task_queues = [Queue("aside", topics, routing_key=binding)]
        ten_stale(client)
        client.acl_setuser("default", enabled=True, commands=["-evalsha"])
        try:
            options = ("--concurrency", "1", "--queues", "aside", "--loglevel", "INFO")
            stack.start("worker", "worker", *options, "--without-mingle")
            stack.wait_for_line("worker", "ready.")
            sent = caller.send_task("cleanup_tasks.cleanup", queue="aside", routing_key="cleanup.eu.now")
            metrics = sent.get(timeout=30)
        finally:
            client.acl_setuser("default", enabled=True, commands=["+evalsha"])
        assert (metrics["implementation"], metrics["keysDeleted"]) == ("python", 60)


def test_our_fleet_has_its_urls_in_files(server: Server, client: Redis, tmp_path: Path) -> None:
    """As container secrets come; worker, beat and Flower read them, and nobody shows them."""
    secret = "hunter2"
    with running_server() as locked:
        with locked.client() as messages:
            messages.config_set("requirepass", secret)
        for name, database in (("broker", 1), ("results", 2)):
            (tmp_path / name).write_text(f"redis://:{secret}@127.0.0.1:{locked.port}/{database}\n")
        environment = {
            "COORDINATION_REDIS_URL": server.url,
            "CELERY_BROKER_URL_FILE": f"{tmp_path}/broker",
            "CELERY_RESULT_BACKEND_FILE": f"{tmp_path}/results",
            "FLOWER_UNAUTHENTICATED_API": "true",
        }
        ten_stale(client)
        with Stack(environment, tmp_path) as stack:
            port = free_port()
            stack.start_flower(port)
            stack.start_worker()
            stack.start_beat()
            wait_until(lambda: not client.exists("blocking:heartbeat:stale-0"), "beat's cleanup has run", 60)

            def page(path: str) -> str:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
                    return str(answer.read().decode())

            wait_until(lambda: "SUCCESS" in page("api/tasks"), "Flower has seen it", 60)
            workers: list[str] = []

            def has_asked() -> bool:
                workers[:] = json.loads(page("api/workers?refresh=true"))
                return bool(workers)

            wait_until(has_asked, "Flower has asked the worker", 60)
            (worker,) = workers
            shown = [page(path) for path in ("broker", "tasks", "api/workers", f"worker/{worker}")]
            assert "broker_url" in shown[-1]
            shown += [stack.log(name) for name in ("worker", "beat", "flower")]
            assert not [text for text in shown if secret in text]
        with locked.client(db=2, password=secret) as results:
            assert results.dbsize() > 0
