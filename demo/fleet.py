"""A fleet between two servers, and a caller that sends tasks to it."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from demo.servers import Server, free_port
from demo.stack import Stack


@dataclass
class Fleet:
    """Celery processes between two servers, and how to reach them."""

    coordination: Server
    broker: Server
    stack: Stack
    metrics_port: int

    @functools.cached_property
    def caller(self) -> Celery:
        """A caller that knows the broker and nothing of our application.

        Not made before it is asked for: a process with an application of its own sends our tasks there.
        """
        return Celery(
            "caller", broker=f"{self.broker.url}/1", backend=f"{self.broker.url}/2", set_as_current=False
        )

    def send(self, task: str = "cleanup", *, seconds: float | None = None, **arguments: Any) -> Any:
        """Send a task and return its AsyncResult; `seconds` is its hard time limit, the soft one 1 s less."""
        limits = {} if seconds is None else {"time_limit": seconds, "soft_time_limit": seconds - 1}
        return self.caller.send_task(f"cleanup_tasks.{task}", kwargs=arguments, queue="cleanup", **limits)

    def run(self, task: str = "cleanup", **arguments: Any) -> dict[str, Any]:
        """Send a task and return its metrics dict."""
        metrics: dict[str, Any] = self.send(task, **arguments).get(timeout=60)
        return metrics

    def finished(self) -> list[dict[str, Any]]:
        """What the result backend holds of each task that has ended, the earliest first."""
        with self.broker.client(db=2) as results:
            stored = [json.loads(results.get(key) or "{}") for key in results.scan_iter("celery-task-meta-*")]
        ended = [result for result in stored if result.get("status") in ("SUCCESS", "FAILURE")]
        return sorted(ended, key=lambda result: str(result["date_done"]))


@contextlib.contextmanager
def fleet(
    coordination: Server, broker: Server, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """A stack without processes yet, on an empty broker."""
    with broker.client() as client:
        client.flushall()
    port = free_port()
    settings = {
        "COORDINATION_REDIS_URL": f"{coordination.url}/0",
        "CELERY_BROKER_URL": f"{broker.url}/1",
        "CELERY_RESULT_BACKEND": f"{broker.url}/2",
        "CLEANUP_METRICS_PORT": str(port),
        **(environment or {}),
    }
    with Stack(settings, folder) as stack:
        running = Fleet(coordination, broker, stack, port)
        try:
            yield running
        finally:
            if "caller" in vars(running):
                running.caller.close()
