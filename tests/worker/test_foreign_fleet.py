"""Our tasks in somebody else's application: its broker, its queues, its beat, and nothing of our app."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from redis import Redis

from cleanup_tasks.rules import keys
from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, free_port, running_server, wait_until
from demo.stack import ROOT, Stack
from tests.support.scraping import scrape


@pytest.fixture(scope="module")
def metrics_port() -> int:
    """Where the shop's worker shows its metrics."""
    return free_port()


@pytest.fixture(scope="module")
def coordination() -> Iterator[Server]:
    """A coordination Redis with a user that may not run scripts."""
    with running_server() as server, server.client() as client:
        client.acl_setuser(
            "noscript", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-evalsha"]
        )
        yield server


@pytest.fixture(scope="module", params=[2, 1], ids=["protocol 2", "protocol 1"])
def shop(
    request: pytest.FixtureRequest,
    coordination: Server,
    broker: Server,
    metrics_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Stack, Celery]]:
    """The shop's prefork worker, and a caller on its broker; messages are of either protocol of Celery's."""
    with broker.client() as client:
        client.flushall()
    environment = {
        "SHOP_BROKER": f"{broker.url}/1",
        "SHOP_RESULTS": f"{broker.url}/2",
        "COORDINATION_REDIS_URL": f"redis://noscript:p@127.0.0.1:{coordination.port}/0",
        "SHOP_SETTINGS": json.dumps({"task_protocol": request.param}),
        "CLEANUP_LOG_FILE": "",
        "CLEANUP_METRICS_PORT": str(metrics_port),
    }
    with Stack(environment, tmp_path_factory.mktemp("shop"), app="tests.support.foreign") as stack:
        options = ("--pool", "prefork", "--concurrency", "2", "--queues", "shop,maintenance")
        stack.start("worker", "worker", *options, "--loglevel", "INFO")
        stack.wait_for_line("worker", "ready.")
        caller = Celery("caller", broker=f"{broker.url}/1", backend=f"{broker.url}/2", set_as_current=False)
        # it sends by name, whatever this process has imported: who refuses is the worker
        for task in ("cleanup", "cleanup_fallback"):
            caller.tasks.pop(f"cleanup_tasks.{task}", None)
        caller.conf.task_protocol = request.param
        try:
            yield stack, caller
        finally:
            caller.close()


@pytest.fixture
def cleanable(coordination: Server) -> Iterator[Redis]:
    """Ten stale coordinators."""
    with coordination.client() as client:
        client.flushall()
        write_coordinators(client, [b"stale-%d" % n for n in range(10)], STALE_AGE_MS)
        yield client


def test_both_tasks_and_the_hand_over(
    shop: tuple[Stack, Celery], cleanable: Redis, metrics_port: int
) -> None:
    _, caller = shop
    assert caller.send_task("tests.support.foreign.price", args=[4], queue="shop").get(timeout=60) == 12
    # The Lua engine is refused: the fallback has the work, under the same id, on the shop's queue
    cleanup, queue = "cleanup_tasks.cleanup", "maintenance"
    dry = caller.send_task(cleanup, kwargs={"dry_run": True}, queue=queue).get(timeout=60)
    assert (dry["implementation"], dry["keysDeleted"], dry["dryRun"]) == ("python", 60, True)
    handed_over = caller.send_task(cleanup, queue=queue).get(timeout=60)
    assert (handed_over["implementation"], handed_over["keysDeleted"]) == ("python", 60)
    assert "evalsha" in handed_over["fallbackReason"]
    assert cleanable.dbsize() == 0
    direct = caller.send_task(f"{cleanup}_fallback", queue=queue).get(timeout=60)
    assert (direct["fallbackReason"], direct["keysDeleted"]) == ("requested", 0)
    deleted = "cleanup_keys_deleted_total"
    wait_until(lambda: scrape(metrics_port)[deleted] == 60, "the shop's metrics show it")


@pytest.mark.parametrize(
    "scheduler",
    [("--schedule", "{folder}/schedule"), ("--scheduler", "redbeat.RedBeatScheduler", "--max-interval", "1")],
    ids=["file", "redbeat"],
)
def test_its_beat(shop: tuple[Stack, Celery], cleanable: Redis, scheduler: tuple[str, ...]) -> None:
    stack, _ = shop
    priced = stack.log("worker").count("foreign.price[")
    options = [option.format(folder=stack.folder) for option in scheduler]
    stack.start("beat", "beat", *options, "--pidfile=")
    try:
        wait_until(lambda: cleanable.keys() == [keys.COOLDOWN], "the beat's cleanup has run", 60)
        wait_until(
            lambda: stack.log("worker").count("foreign.price[") > priced, "so has a task of the shop's"
        )
    finally:
        stack.stop("beat")


def test_our_application_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_BROKER", "memory://")
    monkeypatch.setenv("SHOP_RESULTS", "cache+memory://")
    program = (
        "import sys; from tests.support.foreign import app; app.loader.import_default_modules();"
        "assert app.tasks['cleanup_tasks.cleanup'].app is app;"
        "assert app.tasks['cleanup_tasks.cleanup_fallback'].app is app;"
        "from celery import current_app; assert current_app.main == 'shop', current_app.main;"
        "print(sorted({'celeryconfig', 'cleanup_tasks.celery'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_autodiscovery_finds_them(tmp_path: Path) -> None:
    """For those who would rather have that than `install`."""
    program = (
        "from celery import Celery; app = Celery('shop', broker='memory://');"
        "app.autodiscover_tasks(['cleanup_tasks']); app.loader.import_default_modules();"
        "print(sorted(name for name in app.tasks if name.startswith('cleanup')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout == "['cleanup_tasks.cleanup', 'cleanup_tasks.cleanup_fallback']\n", done.stderr


def test_canvases(shop: tuple[Stack, Celery], cleanable: Redis) -> None:
    """The result of the task before is passed on to it, and ignored.

    Messages of protocol 1 don't say that there was a task before.
    """
    _, caller = shop
    price = caller.signature("tests.support.foreign.price", args=[4], queue="shop")
    dry = caller.signature("cleanup_tasks.cleanup", kwargs={"dry_run": True}, queue="maintenance")
    last = caller.signature("cleanup_tasks.cleanup_fallback", kwargs={"dry_run": True}, queue="maintenance")
    for canvas in (
        chain(price, dry, last),
        chain(price, last, dry),
        chord([price, price], dry),
        chord([price, dry], last),
        chord([price, price], chain(dry, last)),
        chain(price, chord([dry, dry], last)),
        chain(price, chain(dry, dry), last),
        chain(group(price, price), last),
    ):
        metrics = canvas.apply_async().get(timeout=60)
        assert (metrics["implementation"], metrics["keysDeleted"], metrics["dryRun"]) == ("python", 60, True)
    for link in (dry, chain(dry, last)):
        result = price.apply_async(link=link)
        assert result.get(timeout=60) == 12
        wait_until(functools.partial(getattr, result, "children"), "the link is there")
        assert result.children[0].get(timeout=60)["keysDeleted"] == 60
    several = chain(price, group(chain(dry, last), chain(last, dry), dry)).apply_async()
    assert [metrics["keysDeleted"] for metrics in several.get(timeout=60)] == [60] * 3
    assert cleanable.dbsize() == 60


@pytest.mark.parametrize("task", ["cleanup", "cleanup_fallback"])
def test_no_positional_argument_is_taken_for_a_result(
    shop: tuple[Stack, Celery], cleanable: Redis, task: str
) -> None:
    _, caller = shop
    name = f"cleanup_tasks.{task}"
    message = f"{name} takes keyword arguments only"
    sent = caller.signature(name, args=[True], queue="maintenance")
    for canvas in (sent, chain(sent, sent.clone(args=())), group([sent])):
        result = canvas.apply_async()
        with pytest.raises(TypeError, match=message):
            result.get(timeout=60)
        result.forget()  # of the rest of a chain there will be none
    for way in ("delay", "apply_async", "apply", "group", "chain", "chord", "link", "si", "replace"):
        with pytest.raises(TypeError, match=message):
            caller.send_task("tests.support.foreign.careless", args=[name, True, way], queue="shop").get(
                timeout=60
            )
    assert cleanable.dbsize() == 60


NEWER = {
    "x-cleanup-earlier": {"keys_deleted": 5, "cleanup_errors": "many", "sightings": [1]},
    "x-cleanup-retries": {"connection": 1},
    "x-cleanup-later": {"a": None},
}


@pytest.mark.parametrize(
    ("headers", "keys_before"),
    [(NEWER, 5), ({"x-cleanup-earlier": [5], "x-cleanup-retries": -1}, 0), ({"x-cleanup-earlier": None}, 0)],
)
def test_headers_of_another_version(
    shop: tuple[Stack, Celery], cleanable: Redis, headers: dict[str, Any], keys_before: int
) -> None:
    _, caller = shop
    result = caller.send_task("cleanup_tasks.cleanup", queue="maintenance", headers=headers)
    metrics = result.get(timeout=60)
    assert (metrics["implementation"], metrics["keysDeleted"]) == ("python", 60 + keys_before)
    assert (metrics["complete"], metrics["cleanupErrors"]) == (True, 0)


def test_a_reason_of_another_version(shop: tuple[Stack, Celery], cleanable: Redis) -> None:
    _, caller = shop
    headers = {"x-cleanup-fallback": {"code": 7}}
    result = caller.send_task("cleanup_tasks.cleanup", queue="maintenance", headers=headers)
    assert result.get(timeout=60)["fallbackReason"] == "{'code': 7}"
