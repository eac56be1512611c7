"""The command, as cron and people use it: its lines, its JSON, its exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.pipelining import HIGH_LATENCY, LOW_LATENCY
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, free_port
from tests.support.command import run_command
from tests.support.proxy import Proxy
from tests.support.sweeping import digest, write_heartbeat

LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[(DEBUG|INFO|WARNING|ERROR)\] .+")


def texts(output: str) -> list[str]:
    """The lines without time and level; every line must have both."""
    lines = output.splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return [line.split("] ", 2)[2].strip() for line in lines]


def test_the_lines_that_others_read(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    ended = run_command(server.url)
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


def test_python_runs_it_as_a_module_too(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    command = [sys.executable, "-m", "cleanup_tasks", "--dry-run", "--json"]
    environment = {**os.environ, "COORDINATION_REDIS_URL": server.url}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["keysDeleted"] == 9 * KEYS_EACH


def test_nothing_there(server: Server) -> None:
    ended = run_command(server.url)
    assert ended.returncode == 0
    *lines, summary = texts(ended.stdout)
    assert lines == ["No coordinator heartbeats found", "Cleanup complete (nothing to do)"]
    assert summary.startswith("cleanup_sweep outcome=success ")


def test_no_redis() -> None:
    ended = run_command(f"redis://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    (summary,) = texts(ended.stdout)
    assert summary.startswith("cleanup_sweep outcome=failed ")
    failed, aborted = texts(ended.stderr)
    assert failed.startswith("Redis connection failed: ")
    assert aborted == "Cleanup aborted"


def test_no_redis_and_json() -> None:
    ended = run_command(f"redis://127.0.0.1:{free_port()}", "--json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Redis connection failed" in ended.stderr


def test_wrong_password(server: Server) -> None:
    ended = run_command(server.url.replace("redis://", "redis://nobody:secret@"))
    assert ended.returncode == 1
    assert "Redis connection failed" in ended.stderr
    assert "secret" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("more", [[], ["--fallback"]], ids=["lua", "fallback"])
def test_a_dry_run_announces_what_the_real_run_deletes(
    server: Server, client: Redis, more: list[str]
) -> None:
    # Given the acceptance data set
    write_acceptance_data(client)
    before = digest(client)
    # When a dry run reports, nothing has changed
    announced: dict[str, Any] = json.loads(run_command(server.url, "--dry-run", "--json", *more).stdout)
    assert digest(client) == before
    assert (announced["keysDeleted"], announced["dryRun"]) == (59_400, True)
    assert len(announced["staleCoordinatorIds"]) == 9_900
    # And the real run deletes exactly that
    ended = run_command(server.url, "--json", *more)
    done = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (done["keysDeleted"], done["dryRun"]) == (59_400, False)
    assert sorted(done["staleCoordinatorIds"]) == sorted(announced["staleCoordinatorIds"])
    assert client.dbsize() == 600
    assert done["implementation"] == ("python" if more else "lua")


def test_verbose_names_every_coordinator(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 3, 1)
    write_heartbeat(client, b"odd\n[INFO] \x1b[31m", "unreadable")
    lines = texts(run_command(server.url, "--verbose").stdout)
    assert "Coordinator active: active-coordinator-0" in lines
    assert any(
        re.fullmatch(r"Stale coordinator detected: test-coordinator-0 \(age: 66\ds\)", x) for x in lines
    )
    assert r"Invalid or missing heartbeat: odd\n[INFO] \x1b[31m (it is not JSON)" in lines


def test_without_verbose_the_log_names_at_most_so_many_unreadable(server: Server, client: Redis) -> None:
    for number in range(5):
        write_heartbeat(client, b"odd%d" % number, "unreadable")
    lines = texts(run_command(server.url, CLEANUP_MAX_REPORTED_IDS="2").stdout)
    assert len([line for line in lines if line.startswith("Invalid or missing heartbeat")]) == 2
    assert "Unreadable heartbeats: 5" in lines
    assert "not_json: 5, for example odd0" in [re.sub(r"odd\d", "odd0", line) for line in lines]
    # where nobody could be judged, success is not the last word
    success = lines.index("Cleanup completed successfully")
    assert lines[success + 1].startswith("No heartbeat could be read")


def test_the_log_file_has_the_same_lines(server: Server, client: Redis, tmp_path: Path) -> None:
    write_acceptance_data(client, 10, 1)
    log = tmp_path / "deep" / "cleanup.log"
    ended = run_command(server.url, CLEANUP_LOG_FILE=str(log))
    assert log.read_text() == ended.stdout
    # the guide's line for monitoring
    awk = "awk '{print \"cleanup_performance_coordinators_per_sec \" $NF}'"
    command = f'cat {log} | grep "Performance:" | {awk}'
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout  # noqa: S602
    assert re.fullmatch(r"cleanup_performance_coordinators_per_sec \d+\.\d\d\n", shown)


def test_a_log_file_that_cannot_be_written_costs_one_warning(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    ended = run_command(server.url, CLEANUP_LOG_FILE="/dev/null/cleanup.log")
    assert ended.returncode == 0
    assert ended.stdout.count("Log file can't be written") == 1
    assert client.dbsize() == KEYS_EACH


def test_scripting_refused_falls_back_at_once(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.execute_command("ACL", "SETUSER", "noscript", "on", ">pw", "~*", "+@all", "-evalsha", "-eval")  # type: ignore[no-untyped-call]
    ended = run_command(server.url.replace("redis://", "redis://noscript:pw@"), "--json")
    metrics = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert (metrics["implementation"], metrics["keysDeleted"]) == ("python", 9 * KEYS_EACH)
    assert "evalsha" in metrics["fallbackReason"]


@pytest.mark.parametrize("more", [[], ["--fallback"]], ids=["lua", "fallback"])
def test_a_connection_that_breaks_in_the_middle(server: Server, client: Redis, more: list[str]) -> None:
    write_acceptance_data(client, 1_000, 10)
    with Proxy(server.port) as proxy:
        # the first call of the script is a trial with nothing to do
        proxy.cut_at(b"EXEC" if more else b"EVALSHA", 1 + HIGH_LATENCY.in_flight + 1)
        ended = run_command(proxy.url, "--json", *more)
    metrics = json.loads(ended.stdout)
    assert (ended.returncode, metrics["complete"]) == (2, False)
    # scripts share a connection, transactions have one each; the link may be slow on a busy machine
    lost = (1,) if more else (LOW_LATENCY.in_flight, HIGH_LATENCY.in_flight)
    assert metrics["cleanupErrors"] in lost
    gone = 1_000 * KEYS_EACH - client.dbsize()
    assert 0 < metrics["keysDeleted"] < gone
    assert "Cleanup failed" in ended.stderr


def test_a_missing_permission_is_named(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~blocking:*", "+@all")  # type: ignore[no-untyped-call]
    ended = run_command(server.url.replace("redis://", "redis://half:pw@"))
    assert ended.returncode == 2
    report = texts(ended.stdout)
    incomplete, failed = texts(ended.stderr)
    assert incomplete == "Cleanup incomplete: the next run goes on"
    assert failed.startswith("Cleanup failed: ")
    assert "permission" in failed
    # what was done up to there is told all the same
    assert {"Keys deleted: 0", "Cleanup errors: 1"} < {*report}
    assert report[-1].startswith("cleanup_sweep outcome=failed ")
    assert " errors=1 " in report[-1]
    assert client.dbsize() == 10 * KEYS_EACH


def test_both_causes_where_both_engines_fail(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.execute_command(
        "ACL", "SETUSER", "two", "on", ">pw", "~*", "+@all", "-evalsha", "-eval", "-unlink"
    )  # type: ignore[no-untyped-call]
    ended = run_command(server.url.replace("redis://", "redis://two:pw@"))
    assert ended.returncode == 2
    (failed,) = (line for line in texts(ended.stderr) if line.startswith("Cleanup failed: "))
    (summary,) = (line for line in texts(ended.stdout) if line.startswith("cleanup_sweep outcome=failed"))
    for line in (failed, summary):
        assert re.search("'unlink' command.*; before this the Lua engine was refused: .*'evalsha'", line)


def test_the_summary_says_why_a_sweep_failed_and_comes_last(tmp_path: Path) -> None:
    log = tmp_path / "cleanup.log"
    run_command(f"redis://127.0.0.1:{free_port()}", CLEANUP_LOG_FILE=str(log))
    failed, aborted, summary = texts(log.read_text())
    assert failed.startswith("Redis connection failed: ")
    assert aborted == "Cleanup aborted"
    assert f"reason={json.dumps(failed.removeprefix('Redis connection failed: '))}" in summary


def test_a_dry_run_says_so_in_every_line_of_the_log(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.hset(keys.SIGHTINGS, "ghost", "1000000000000")
    client.set(keys.signal(b"ghost"), "1")
    lines = texts(run_command(server.url, "--dry-run", "--orphans", "reap").stdout)
    *lines, summary = lines
    assert "dry_run=true" in summary
    assert [line for line in lines if not line.startswith("[DRY-RUN] ")] == []
    told = [line.removeprefix("[DRY-RUN]").strip() for line in lines]
    for expected in (
        "Orphaned coordinator would be reaped: ghost",
        "Orphaned coordinators that would be reaped: 1",
        "Keys deleted: 55 (would be)",
        "Cleanup completed successfully: would delete 55 keys, deleted none",
    ):
        assert expected in told


def test_verbose_names_the_keys(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 2, 1)
    announced = texts(run_command(server.url, "--verbose", "--dry-run").stdout)
    gone = set(client.keys("*test-coordinator*"))
    lines = texts(run_command(server.url, "--verbose").stdout)
    named = {line.split(": ", 1)[1].encode() for line in lines if line.startswith("Key deleted")}
    assert named == gone
    assert "Key deleted: blocking:heartbeat:test-coordinator-0" in lines
    assert "Key deleted, if it was there: blocking:signal:test-coordinator-0" in lines
    assert "[DRY-RUN] Key would be deleted: blocking:heartbeat:test-coordinator-0" in announced
    assert "[DRY-RUN] Key would be deleted, if it is there: blocking:signal:test-coordinator-0" in announced


def test_an_orphan_that_waits_is_counted(server: Server, client: Redis) -> None:
    client.set(keys.signal(b"ghost"), "1")
    # a dry run notes nobody, so nobody waits
    foreseen = run_command(server.url, "--orphans", "reap", "--dry-run").stdout
    told = "[DRY-RUN]   Orphaned coordinators: 1 not noted yet (a real sweep with --orphans reap does that)"
    assert told in foreseen
    assert "waiting" not in foreseen
    report = json.loads(run_command(server.url, "--orphans", "reap", "--json").stdout)
    assert (report["orphanedCoordinatorsFound"], report["orphanedCoordinatorsReaped"]) == (1, 0)
    assert (report["orphanedCoordinatorsWaiting"], report["nextOrphanDueSeconds"]) == (1, 600)
    again = texts(run_command(server.url, "--orphans", "reap").stdout)
    assert any(
        re.fullmatch(r"Orphaned coordinators waiting: 1 \(due in (10 min|9 min 5\d s)\)", line)
        for line in again
    )
