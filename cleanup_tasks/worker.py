"""What a Celery worker does besides its tasks: it serves metrics, and counts sweeps that were lost."""

import os
from collections import deque
from typing import Any

from celery import signals
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.misspelt import warn_of_unknown_variables
from cleanup_tasks.configuration.settings import MetricsSettings
from cleanup_tasks.configuration.targets import intervals, names, settings_of
from cleanup_tasks.reporting.exporter import CHANNEL
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.metrics import METRICS
from cleanup_tasks.reporting.report import DEFAULT_TARGET
from cleanup_tasks.schedule import ENGINE_OF_TASK


@signals.celeryd_after_setup.connect
def _open(**_: Any) -> None:
    """Open the port: the worker's log is there by now, and its pool has not forked yet.

    A worker that can't have it says so and goes on, for it may be somebody's who has other work for it.
    """
    warn_of_unknown_variables()
    try:
        METRICS.watch(intervals())
        settings_of(*names())
    except InvalidSettings as error:
        logger.error("Cleanups will fail: %s", error)
    try:
        settings = MetricsSettings.read()
    except InvalidSettings as error:
        logger.error("No metrics: %s", error)
        return
    if settings.metrics_ports:
        CHANNEL.open(settings.cleanup_metrics_address, settings.metrics_ports)
    elif os.environ.get("CLEANUP_METRICS_PORT"):
        logger.info("No metrics: CLEANUP_METRICS_PORT is the address of a Kubernetes service, and no port")


@signals.worker_process_init.connect
def _leave(**_: Any) -> None:
    CHANNEL.leave()


#: The tasks that were lost last. A hard time limit is announced twice, and another one may come in between.
_lost: deque[str | None] = deque(maxlen=100)


@signals.task_failure.connect
def _count_lost(
    sender: Any = None,
    task_id: str | None = None,
    exception: BaseException | None = None,
    kwargs: dict[str, Any] | None = None,
    **_: Any,
) -> None:
    """Celery sends this in the main process for a task whose child was killed or ran out of time."""
    engine = ENGINE_OF_TASK.get(getattr(sender, "name", ""))
    if engine and isinstance(exception, WorkerLostError | TimeLimitExceeded) and task_id not in _lost:
        _lost.append(task_id)
        CHANNEL.call("end", (kwargs or {}).get("target") or DEFAULT_TARGET, "lost", engine)
