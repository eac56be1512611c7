"""A primary, its replica, and three real sentinels, started by the tests."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError, ResponseError

from demo.servers import Server, free_port, running_server, stop, valkey_binary, wait_until

SERVICE = "coordination"
SENTINELS = 3
QUORUM = 2
#: Periods in ms. Left to itself a sentinel waits four times two seconds before it demotes an old primary.
PACE = ("INFO-PERIOD", "500", "PUBLISH-PERIOD", "200", "PING-PERIOD", "200", "ASK-PERIOD", "200")


class Sentinels:
    """The running servers; `ports` are the sentinels'."""

    def __init__(self, servers: list[Server], ports: list[int], password: str | None) -> None:
        """`servers` are the primary and its replica; the password is the sentinels'."""
        self.servers = servers
        self.ports = ports
        self.password = password

    def ask(self, text: str) -> Any:
        """What the first sentinel answers to a command."""
        with Redis(port=self.ports[0], password=self.password) as client:
            return client.execute_command(*text.split())

    def primary(self) -> Server:
        """The primary, as the first sentinel says."""
        port = int(self.ask(f"SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}")[1])
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """The replica has all that the primary said, and takes over; the primary becomes its replica."""
        old = self._replicated()
        wait_until(self._failing_over, "a failover begins")
        wait_until(lambda: self.primary() is not old, "the replica takes over")
        wait_until(lambda: _role(old) == b"slave", "the old primary is a replica")

    def kill_primary(self) -> None:
        """The primary dies; its replica has all that it said."""
        process = self._replicated().process
        process.kill()
        process.wait()

    def _replicated(self) -> Server:
        server = self.primary()
        with server.client() as client:
            assert client.wait(1, 10_000) == 1
        return server

    def _failing_over(self) -> bool:
        try:
            self.ask(f"SENTINEL FAILOVER {SERVICE}")
        except ResponseError:  # NOGOODSLAVE: it doesn't know the replica yet
            return False
        return True


@contextlib.contextmanager
def running_sentinels(password: str | None = None) -> Iterator[Sentinels]:
    """All of it for the length of a with block; the sentinels alone ask for a password."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running_server("--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(running_server("--replicaof", "127.0.0.1", str(primary.port)))
        with replica.client() as client:
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up", "the replica is in step"
            )
        ports = [stack.enter_context(running_sentinel(primary.port, password)) for _ in range(SENTINELS)]
        sentinels = Sentinels([primary, replica], ports, password)
        wait_until(lambda: _knows_all(sentinels), "the sentinels know the replica")
        yield sentinels


def _knows_all(sentinels: Sentinels) -> bool:
    return len(sentinels.ask(f"SENTINEL REPLICAS {SERVICE}")) == 1


def _role(server: Server) -> bytes:
    with server.client() as client:
        role: bytes = client.role()[0]
        return role


@contextlib.contextmanager
def running_sentinel(
    primary_port: int,
    password: str | None = None,
    *lines: str,
    quorum: int = QUORUM,
    binary: str | None = None,
) -> Iterator[int]:
    """One sentinel, which listens on the port that this yields; `lines` are more of its configuration."""
    with tempfile.TemporaryDirectory(prefix="cleanup-sentinel-") as folder:
        port = free_port()
        config = Path(folder) / "sentinel.conf"
        config.write_text(
            f"""port {port}
bind 127.0.0.1
dir {folder}
logfile {folder}/sentinel.log
sentinel monitor {SERVICE} 127.0.0.1 {primary_port} {quorum}
sentinel down-after-milliseconds {SERVICE} 1000
sentinel failover-timeout {SERVICE} 10000
{f"requirepass {password}" if password else ""}
"""
            + "\n".join(lines)
        )
        process = subprocess.Popen(
            [binary or valkey_binary(), str(config), "--sentinel"], start_new_session=True
        )
        try:
            wait_until(lambda: _answers(port, password), "a sentinel answers")
            if binary is None:
                with Redis(port=port, password=password) as client:
                    client.execute_command("SENTINEL", "DEBUG", *PACE)
            yield port
        finally:
            stop(process)


def _answers(port: int, password: str | None) -> bool:
    with contextlib.suppress(ConnectionError), Redis(port=port, password=password) as client:
        return bool(client.ping())
    return False
