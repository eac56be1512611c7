"""Wrong settings fail the cleanup, and not the worker of somebody's fleet."""

import contextlib
from pathlib import Path

import pytest
from celery import Celery

from demo.servers import Server
from demo.stack import Stack

#: Somebody else's, and some that are wrong; all at once.
ENVIRONMENT = {
    "REDIS_HOST": "redis://cache:6379/0",
    "REDIS_PORT": "tcp://10.96.0.5:6379",
    "REDIS_DB": "sessions",
    "CLEANUP_METRICS_PORT": "tcp://10.96.0.6:9808",
    "CLEANUP_BEAT_FILE": "/nowhere/at/all",
    "CLEANUP_INTERVAL_SECONDS": "soon",
    "CLEANUP_STALE_THRESHOLD_SECONDS": "long",
    "CLEANUP_STALE_TRESHOLD_SECONDS": "700",
}


def test_a_hosts_worker_works_on(broker: Server, tmp_path: Path) -> None:
    with broker.client() as client:
        client.flushall()
    urls = {"SHOP_BROKER": f"{broker.url}/1", "SHOP_RESULTS": f"{broker.url}/2"}
    environment = {**ENVIRONMENT, **urls, "COORDINATION_REDIS_URL": f"{broker.url}/3"}
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(Stack(environment, tmp_path, app="tests.support.foreign"))
        caller = stack.enter_context(
            Celery("caller", broker=urls["SHOP_BROKER"], backend=urls["SHOP_RESULTS"], set_as_current=False)
        )
        options = ("--queues", "shop,maintenance", "--concurrency", "2", "--loglevel", "WARNING")
        fleet.start("worker", "worker", *options)
        price = caller.send_task("tests.support.foreign.price", args=[4], queue="shop")
        assert price.get(timeout=60) == 12
        # the cleanup names all that it would use, and nothing else
        for _ in range(2):
            with pytest.raises(Exception, match="invalid settings") as failure:
                caller.send_task("cleanup_tasks.cleanup", queue="maintenance").get(timeout=60)
        said = str(failure.value)
        assert "CLEANUP_INTERVAL_SECONDS: a whole number of seconds" in said
        assert "CLEANUP_STALE_THRESHOLD_SECONDS: a whole number of seconds" in said
        assert "REDIS_" not in said
        # and so does the worker, once, when it starts
        log = fleet.log("worker")
    assert log.count("Cleanups will fail: invalid settings: ") == 1
    assert log.count("Unknown variable CLEANUP_STALE_TRESHOLD_SECONDS is ignored; did you mean") == 1
    # of lines outside of tasks there is nothing to fill Celery's format with
    assert "cleanup_tasks[-]: Unknown variable" in log
    assert "???" not in log
