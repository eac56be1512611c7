"""Where Prometheus asks a worker: the port in the main process, and the way there for its children.

The main process counts for all. A prefork child sends its counts there over a socket pair, one datagram
each: nothing is lost when a child is recycled, a killed one leaves neither a lock held nor a figure stuck,
and no folder has to be set before prometheus_client is imported. Solo and thread pools count in place.
"""

import json
import os
import socket
import threading
from typing import Any
from wsgiref.simple_server import WSGIServer

from celery import signals
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from prometheus_client import start_http_server

from cleanup_tasks.log import logger
from cleanup_tasks.metrics import METRICS, REGISTRY
from cleanup_tasks.settings import InvalidSettings, Settings, get_settings

#: Seconds that a child waits for room in the socket; the main process only has to be alive.
SEND_TIMEOUT_S = 2.0
#: Bytes of the longest message; ours have about two hundred.
MAX_MESSAGE = 65_536

ENGINE_OF_TASK = {"cleanup_tasks.cleanup": "lua", "cleanup_tasks.cleanup_fallback": "python"}


class Relay:
    """Calls of the children on METRICS, made in the process that `open` was called in."""

    def __init__(self) -> None:
        """Nobody to relay to yet: calls are made here."""
        self._main = os.getpid()
        self._send: socket.socket | None = None
        self._receive: socket.socket | None = None

    def open(self) -> None:
        """Make this the main process, before it forks."""
        self._main = os.getpid()
        self._receive, self._send = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._send.settimeout(SEND_TIMEOUT_S)
        threading.Thread(
            target=self._listen, args=(self._receive,), name="metrics-relay", daemon=True
        ).start()

    @property
    def in_child(self) -> bool:
        """Whether this process was forked from the main one."""
        return os.getpid() != self._main

    def leave(self) -> None:
        """In a child: let go of the main process's end, so that nobody sends to a dead one."""
        if self._receive is not None:
            self._receive.close()

    def call(self, method: str, *arguments: Any, **named: Any) -> None:
        """Call a method of METRICS in the main process."""
        if self._send is None or not self.in_child:
            getattr(METRICS, method)(*arguments, **named)
            return
        try:
            self._send.send(json.dumps([method, arguments, named]).encode())
        except OSError as error:
            logger.warning("Metrics lost, the main process does not take them: %s", error)

    @staticmethod
    def _listen(receive: socket.socket) -> None:
        while True:
            method, arguments, named = json.loads(receive.recv(MAX_MESSAGE))
            getattr(METRICS, method)(*arguments, **named)


RELAY = Relay()
_servers: list[WSGIServer] = []


@signals.worker_init.connect
def _open(**_: Any) -> None:
    """Open the port before the pool forks; a worker that can't says so and does not start."""
    try:
        settings = get_settings()
    except InvalidSettings as error:
        raise SystemExit(str(error)) from None
    METRICS.interval.set(settings.cleanup_interval_seconds)
    if settings.cleanup_metrics_port is not None:
        RELAY.open()
        _servers.append(_serve(settings, settings.cleanup_metrics_port))


def _serve(settings: Settings, port: int) -> WSGIServer:
    address = settings.cleanup_metrics_address
    try:
        server, _thread = start_http_server(port, address, REGISTRY)
    except OSError as error:
        # Celery only logs what a receiver raises, unless it is this.
        raise SystemExit(f"CLEANUP_METRICS_PORT: can't listen on {address}:{port}: {error}") from None
    logger.info("Metrics on http://%s:%d/metrics", address, port)
    return server


@signals.worker_process_init.connect
def _leave(**_: Any) -> None:
    """A child holds neither the port nor the main process's end of the relay."""
    if not RELAY.in_child:
        return  # the solo pool sends this signal in the main process
    RELAY.leave()
    for server in _servers:
        server.socket.close()


#: The task that was lost last: a hard time limit is announced twice.
_last_lost: list[str | None] = [None]


@signals.task_failure.connect
def _count_lost(
    sender: Any = None, task_id: str | None = None, exception: BaseException | None = None, **_: Any
) -> None:
    """Celery sends this in the main process for a task whose child was killed or ran out of time."""
    engine = ENGINE_OF_TASK.get(getattr(sender, "name", ""))
    if engine and isinstance(exception, WorkerLostError | TimeLimitExceeded) and task_id != _last_lost[0]:
        _last_lost[0] = task_id
        RELAY.call("end", "lost", engine)
