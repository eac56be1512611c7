"""The command, as cron and people use it: its lines, its JSON, its exit status."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from cleanup_tasks import cli, keys, options
from cleanup_tasks.pace import NEAR
from cleanup_tasks.run import Run
from cleanup_tasks.settings import load_settings
from cleanup_tasks.sweep import Sweep
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, free_port, wait_until
from tests.proxy import Proxy
from tests.sweeping import digest, interrupted_by, write_heartbeat

COMMAND = str(Path(sys.executable).with_name("cleanup-blocking-coordination"))
LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[(DEBUG|INFO|WARNING|ERROR)\] .+")


def run(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command against a server; no setting but these."""
    return subprocess.run(
        [COMMAND, *arguments],
        env={**os.environ, "COORDINATION_REDIS_URL": url, "CLEANUP_LOG_FILE": "", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def texts(output: str) -> list[str]:
    """The lines without time and level; every line must have both."""
    lines = output.splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return [line.split("] ", 2)[2].strip() for line in lines]


def test_the_lines_that_others_read(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    ended = run(server.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = texts(ended.stdout)
    for expected in (
        "Total coordinators checked: 100",
        "Stale coordinators found: 90",
        f"Keys deleted: {90 * KEYS_EACH}",
        "Cleanup errors: 0",
        "Cleanup completed successfully",
    ):
        assert expected in lines
    assert any(re.fullmatch(r"Execution time: \d+ms", line) for line in lines)
    assert any(re.fullmatch(r"Performance: (\d+\.\d\d) coordinators/sec = \1", line) for line in lines)
    assert client.dbsize() == 10 * KEYS_EACH


def test_nothing_there(server: Server) -> None:
    ended = run(server.url)
    assert ended.returncode == 0
    *lines, summary = texts(ended.stdout)
    assert lines == ["No coordinator heartbeats found", "Cleanup complete (nothing to do)"]
    assert summary.startswith("cleanup_sweep outcome=success ")


def test_no_redis() -> None:
    ended = run(f"redis://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    assert texts(ended.stdout)[0].startswith("Redis connection failed")
    assert texts(ended.stdout)[1] == "Cleanup aborted"


def test_no_redis_and_json() -> None:
    ended = run(f"redis://127.0.0.1:{free_port()}", "--json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Redis connection failed" in ended.stderr


def test_wrong_password(server: Server) -> None:
    ended = run(server.url.replace("redis://", "redis://nobody:secret@"))
    assert ended.returncode == 1
    assert "Redis connection failed" in ended.stdout
    assert "secret" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stale-threshold", "-1"],
        ["--stale-threshold", "1.5"],
        ["--stale-threshold", "soon"],
        ["--dryrun"],
        ["--redis-url", "http://localhost"],
        ["--redis-url", ""],
        ["600", "1"],
    ],
)
def test_wrong_options_touch_nothing(server: Server, client: Redis, arguments: list[str]) -> None:
    write_acceptance_data(client, 10, 1)
    ended = run(server.url, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Error: " in ended.stderr
    assert client.dbsize() == 10 * KEYS_EACH


@pytest.mark.parametrize("more", [[], ["--fallback"]], ids=["lua", "fallback"])
def test_a_dry_run_announces_what_the_real_run_deletes(
    server: Server, client: Redis, more: list[str]
) -> None:
    # Given the acceptance data set
    write_acceptance_data(client)
    before = digest(client)
    # When a dry run reports, nothing has changed
    announced: dict[str, Any] = json.loads(run(server.url, "--dry-run", "--json", *more).stdout)
    assert digest(client) == before
    assert (announced["keysDeleted"], announced["dryRun"]) == (59_400, True)
    assert len(announced["staleCoordinatorIds"]) == 9_900
    # And the real run deletes exactly that
    ended = run(server.url, "--json", *more)
    done = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (done["keysDeleted"], done["dryRun"]) == (59_400, False)
    assert sorted(done["staleCoordinatorIds"]) == sorted(announced["staleCoordinatorIds"])
    assert client.dbsize() == 600
    assert done["implementation"] == ("python" if more else "lua")


def test_threshold_and_url_win_over_the_environment(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 5)
    ended = run(
        "redis://127.0.0.1:1",
        "--redis-url",
        server.url,
        "--stale-threshold=30",
        "--json",
        CLEANUP_STALE_THRESHOLD_SECONDS="900",
    )
    assert json.loads(ended.stdout)["staleCoordinatorsFound"] == 10


def test_verbose_names_every_coordinator(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 3, 1)
    write_heartbeat(client, b"odd\n[INFO] \x1b[31m", "unreadable")
    lines = texts(run(server.url, "--verbose").stdout)
    assert "Coordinator active: active-coordinator-0" in lines
    assert any(
        re.fullmatch(r"Stale coordinator detected: test-coordinator-0 \(age: 66\ds\)", x) for x in lines
    )
    assert r"Invalid or missing heartbeat: odd\n[INFO] \x1b[31m" in lines


def test_without_verbose_the_log_names_at_most_so_many_unreadable(server: Server, client: Redis) -> None:
    for number in range(5):
        write_heartbeat(client, b"odd%d" % number, "unreadable")
    lines = texts(run(server.url, CLEANUP_MAX_REPORTED_IDS="2").stdout)
    assert len([line for line in lines if line.startswith("Invalid or missing heartbeat")]) == 2
    assert "Unreadable heartbeats: 5" in lines


def test_the_log_file_has_the_same_lines(server: Server, client: Redis, tmp_path: Path) -> None:
    write_acceptance_data(client, 10, 1)
    log = tmp_path / "deep" / "cleanup.log"
    ended = run(server.url, CLEANUP_LOG_FILE=str(log))
    assert log.read_text() == ended.stdout
    # the guide's line for monitoring
    awk = "awk '{print \"cleanup_performance_coordinators_per_sec \" $NF}'"
    command = f'cat {log} | grep "Performance:" | {awk}'
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout  # noqa: S602
    assert re.fullmatch(r"cleanup_performance_coordinators_per_sec \d+\.\d\d\n", shown)


def test_a_log_file_that_cannot_be_written_costs_one_warning(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    ended = run(server.url, CLEANUP_LOG_FILE="/dev/null/cleanup.log")
    assert ended.returncode == 0
    assert ended.stdout.count("Log file can't be written") == 1
    assert client.dbsize() == KEYS_EACH


def test_scripting_refused_falls_back_at_once(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.execute_command("ACL", "SETUSER", "noscript", "on", ">pw", "~*", "+@all", "-evalsha", "-eval")  # type: ignore[no-untyped-call]
    ended = run(server.url.replace("redis://", "redis://noscript:pw@"), "--json")
    metrics = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert (metrics["implementation"], metrics["keysDeleted"]) == ("python", 9 * KEYS_EACH)
    assert "evalsha" in metrics["fallbackReason"]


@pytest.mark.parametrize("more", [[], ["--fallback"]], ids=["lua", "fallback"])
def test_a_connection_that_breaks_in_the_middle(server: Server, client: Redis, more: list[str]) -> None:
    write_acceptance_data(client, 1_000, 10)
    with Proxy(server.port) as proxy:
        # at first nobody knows the script
        proxy.cut_at(b"EXEC" if more else b"EVALSHA", 3 if more else NEAR.batches + 3)
        ended = run(proxy.url, "--json", *more)
    metrics = json.loads(ended.stdout)
    assert ended.returncode == 2
    assert (metrics["complete"], metrics["cleanupErrors"]) == (False, 1)
    gone = 1_000 * KEYS_EACH - client.dbsize()
    assert 0 < metrics["keysDeleted"] < gone
    assert "Cleanup failed" in ended.stderr


def test_a_missing_permission_is_named(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~blocking:*", "+@all")  # type: ignore[no-untyped-call]
    ended = run(server.url.replace("redis://", "redis://half:pw@"))
    assert ended.returncode == 2
    assert "permission" in ended.stdout
    assert client.dbsize() == 10 * KEYS_EACH


def test_ctrl_c_frees_the_lock_and_says_what_was_done(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 1_000, 10)
    with Proxy(server.port) as proxy:
        # at first nobody knows the script
        proxy.cut_at(b"EVALSHA", NEAR.batches + 4, hold=True)
        environment = {**os.environ, "COORDINATION_REDIS_URL": proxy.url}
        with subprocess.Popen([COMMAND], env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                wait_until(lambda: proxy.broken, "the sweep waits for an answer")
                wait_until(lambda: client.dbsize() < 999 * KEYS_EACH, "the sweep has begun to delete")
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == 130
    assert "Cleanup interrupted" in output
    assert not client.exists(keys.LOCK)


def test_ctrl_c_counts_whatever_a_library_makes_of_it(
    server: Server, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sweep, "run", interrupted_by(KeyboardInterrupt))
    settings = load_settings(coordination_redis_url=SecretStr(server.url))
    assert cli._sweep(Run(settings, options.check())) == cli.INTERRUPTED


def test_whoever_reads_may_stop_reading(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 1_000, 10)
    environment = {**os.environ, "COORDINATION_REDIS_URL": server.url}
    piped = f"set -o pipefail; {COMMAND} --verbose | head -1"
    ended = subprocess.run(["bash", "-c", piped], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert client.dbsize() == 10 * KEYS_EACH


def test_a_metrics_file_that_cannot_be_written_hides_no_metrics(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    ended = run(server.url, "--json", "--metrics-file", "/dev/null/cleanup.prom")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["keysDeleted"] == 90 * KEYS_EACH


def test_a_terminal_shows_a_progress_bar(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 2_000, 10)
    main, terminal = pty.openpty()
    environment = {**os.environ, "COORDINATION_REDIS_URL": server.url, "TERM": "xterm"}
    shown = b""
    command = [COMMAND, "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=terminal) as process:
        try:
            os.close(terminal)
            with contextlib.suppress(OSError):  # the terminal's way to say that the other end is closed
                while chunk := os.read(main, 65536):
                    shown += chunk
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(main)
    assert b"reaping" in shown
    assert json.loads(output)["keysDeleted"] == 1_990 * KEYS_EACH
