"""Standard output that fails: the sweep, its log file and its exit status are the same."""

import os
import subprocess
from pathlib import Path

import pytest
from redis import Redis

from demo.dataset import KEYS_EACH, STALE_AGE_MS, write_acceptance_data, write_coordinators
from demo.servers import Server
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
