"""Where Prometheus asks a worker: the port in the main process, and the channel from its children to it.

The main process counts for all. A prefork child sends its counts there over a socket pair, one datagram
each: nothing is lost when a child is recycled, a killed one leaves neither a lock held nor a figure stuck,
and no folder has to be set before prometheus_client is imported. Solo and thread pools count in place.
"""

import json
import os
import socket
import threading
from typing import Any

from prometheus_client import start_http_server

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.metrics import METRICS, REGISTRY

#: Seconds that a child waits for room in the socket; the main process only has to be alive.
SEND_TIMEOUT_S = 2.0
#: Bytes of the longest message; ours have about two hundred.
MAX_MESSAGE = 65_536


class Channel:
    """Calls of the children on METRICS, made in the process that `open` was called in."""

    def __init__(self) -> None:
        """Nobody to send to yet: calls are made here."""
        self._main = os.getpid()
        self._send: socket.socket | None = None
        #: What the main process alone has open.
        self._of_main: list[socket.socket] = []

    def open(self, address: str, ports: range) -> None:
        """Make this the main process, before it forks, and serve the metrics on the first port that is free.

        Where none is, the log says so.
        """
        refusal: OSError | None = None
        for port in ports:
            try:
                server, _thread = start_http_server(port, address, REGISTRY)
            except OSError as error:
                refusal = error
            else:
                break
        else:
            tried = "-".join(str(port) for port in sorted({ports[0], ports[-1]}))
            logger.error(
                "No metrics: CLEANUP_METRICS_PORT: can't listen on %s:%s: %s", address, tried, refusal
            )
            return
        self._main = os.getpid()
        receive, self._send = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._of_main += server.socket, receive
        self._send.settimeout(SEND_TIMEOUT_S)
        threading.Thread(target=self._listen, args=(receive,), name="metrics-channel", daemon=True).start()
        logger.info("Metrics on http://%s:%d/metrics", address, port)

    @property
    def in_child(self) -> bool:
        """Whether this process was forked from the main one."""
        return os.getpid() != self._main

    def leave(self) -> None:
        """In a child: close the port and the main process's end, so that nobody sends to a dead one."""
        if self.in_child:  # the solo pool has no children
            for each in self._of_main:
                each.close()

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


CHANNEL = Channel()
