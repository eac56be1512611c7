"""Both tasks in every pool that Celery has, and the process as before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery, group
from redis.exceptions import NoPermissionError

from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, running_server
from demo.stack import Stack

STATE = "tests.support.foreign.state"
CLEANUP, FALLBACK = "cleanup_tasks.cleanup", "cleanup_tasks.cleanup_fallback"


@pytest.fixture(scope="module")
def coordination() -> Iterator[Server]:
    """A coordination Redis."""
    with running_server() as server:
        yield server


@pytest.mark.parametrize(
    ("pool", "garbage_collection"),
    [
        ("prefork", "on"),
        ("prefork", "off"),
        ("threads", "on"),
        ("threads", "off"),
        ("solo", "on"),
        ("gevent", "on"),
        ("eventlet", "on"),
    ],
)
def test_both_tasks_in_a_pool(
    pool: str, garbage_collection: str, coordination: Server, broker: Server, tmp_path: Path
) -> None:
    environment = {
        "SHOP_BROKER": f"{broker.url}/1",
        "SHOP_RESULTS": f"{broker.url}/2",
        "SHOP_GARBAGE_COLLECTION": garbage_collection,
        "COORDINATION_REDIS_URL": f"redis://sweeper:p@127.0.0.1:{coordination.port}/0",
        "CLEANUP_LOG_FILE": str(tmp_path / "cleanup.log"),
        "TZ": "Asia/Kathmandu",
    }
    # one process, so that all tasks see the same one; several at once where a pool can do that
    at_once = 1 if pool in ("prefork", "solo") else 4
    with (
        broker.client() as messages,
        coordination.client() as client,
        Stack(environment, tmp_path, app="tests.support.foreign") as stack,
        Celery(backend=f"{broker.url}/2", broker=f"{broker.url}/1", set_as_current=False) as caller,
    ):
        messages.flushall()
        client.flushall()
        acl = ["on", ">p", "~*", "+@all"]
        client.execute_command("ACL", "SETUSER", "sweeper", *acl)
        options = ["--pool", pool, "--concurrency", str(at_once), "--queues", "shop,maintenance"]
        stack.start("worker", "worker", *options, "--without-mingle")
        send = caller.send_task
        before = send(STATE, queue="shop").get(timeout=60)
        assert before["garbage collection"].startswith(f"({garbage_collection == 'on'}, ")

        def cleaned(task: str, **arguments: bool) -> tuple[str, int]:
            metrics = send(task, kwargs=arguments, queue="maintenance").get(timeout=60)
            return metrics["implementation"], metrics["keysDeleted"]

        def ten_stale() -> None:
            write_coordinators(client, [b"stale-%d" % n for n in range(10)], STALE_AGE_MS)

        ten_stale()
        assert cleaned(CLEANUP, dry_run=True) == ("lua", 60)
        dry = caller.signature(CLEANUP, kwargs={"dry_run": True}, queue="maintenance", immutable=True)
        together = group([dry] * 2 * at_once).apply_async().get(timeout=60)
        assert {metrics["keysDeleted"] for metrics in together} == {60}
        assert cleaned(CLEANUP) == ("lua", 60)
        ten_stale()
        assert cleaned(FALLBACK) == ("python", 60)
        ten_stale()
        client.acl_setuser("sweeper", enabled=True, commands=["-evalsha"])
        assert cleaned(CLEANUP) == ("python", 60)
        client.acl_setuser("sweeper", enabled=True, commands=["-scan"])
        for task in (CLEANUP, FALLBACK):
            with pytest.raises(NoPermissionError):
                cleaned(task)
        assert client.dbsize() == 0
        assert send(STATE, queue="shop").get(timeout=60) == before
