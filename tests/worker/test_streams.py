"""Standard output that fails: the sweep, its log file and its exit status are the same."""

import fcntl
import os
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from redis import Redis

from demo.dataset import KEYS_EACH, STALE_AGE_MS, write_acceptance_data, write_coordinators
from demo.servers import Server, wait_until
from tests.support.command import COMMAND

NAME = "координатор"


def run_in_shell(
    server: Server, redirection: str, log: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command with its output redirected by a shell."""
    line = f'"{COMMAND}" {" ".join(arguments)} {redirection}'
    given = {"COORDINATION_REDIS_URL": server.url, "CLEANUP_LOG_FILE": str(log), **environment}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], env=os.environ | given, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("arguments", [(), ("--verbose",), ("--json",)], ids=" ".join)
@pytest.mark.parametrize(
    "redirection",
    [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-", "| head -1"],
)
def test_a_stream_that_cannot_be_written(
    server: Server, client: Redis, tmp_path: Path, redirection: str, arguments: tuple[str, ...]
) -> None:
    write_acceptance_data(client, 1_000, 10)
    log = tmp_path / "cleanup.log"
    ended = run_in_shell(server, redirection, log, *arguments)
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
    assert client.dbsize() == 10 * KEYS_EACH
    assert "Cleanup completed successfully" in log.read_text()
    failure = b"Standard output can't be written: [Errno 28] No space left on device"
    assert (failure in ended.stderr) == (redirection == ">/dev/full")


def test_errors_are_told_where_standard_output_is_closed(tmp_path: Path, server: Server) -> None:
    ended = run_in_shell(server, ">&-", tmp_path / "log", "--redis-url", "redis://127.0.0.1:1")
    assert (ended.returncode, b"Redis connection failed" in ended.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [("--verbose",), ("--verbose", "--dry-run", "--json")], ids=" ".join)
def test_a_character_that_the_encoding_does_not_have(
    server: Server, client: Redis, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    write_coordinators(client, [NAME.encode()], STALE_AGE_MS)
    log = tmp_path / "cleanup.log"
    ended = run_in_shell(server, "", log, *arguments, PYTHONIOENCODING="iso-8859-1")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert NAME.encode("ascii", "backslashreplace") in ended.stdout
    assert f"Stale coordinator detected: {NAME} " in log.read_text(encoding="utf-8")
    assert client.dbsize() == (KEYS_EACH if "--dry-run" in arguments else 0)


def test_a_pipe_that_does_not_block_loses_nothing(server: Server, client: Redis) -> None:
    """As a shell's that shares it with a program of Node.js."""
    write_acceptance_data(client, 1_000, 10)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4_096)
    environment = os.environ | {"COORDINATION_REDIS_URL": server.url, "CLEANUP_LOG_FILE": ""}
    with subprocess.Popen([COMMAND, "--verbose"], stdout=writer, env=environment) as process:
        try:
            os.close(writer)
            wait_until(lambda: pending(reader) > 3_900, "the pipe is full")
            with open(reader, encoding="utf-8") as pipe:  # noqa: PTH123, it has no path
                lines = pipe.read().splitlines()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert sum("Stale coordinator detected" in line for line in lines) == 990
    assert "cleanup_sweep outcome=success" in lines[-1]


def pending(pipe: int) -> int:
    """How many bytes wait to be read."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])
