"""The log: one line for machines, the original's file, rotated, and the guide's own line on it."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from cleanup_tasks.arguments import check_arguments, options_of
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.settings import load_settings
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.fleet import fleet
from demo.servers import Server
from demo.stack import ROOT
from tests.support.command import run_command

#: The guide's, word for word.
GUIDE = """\
cat ~/.claude-flow/logs/blocking-cleanup.log | \\
  grep "Performance:" | \\
  awk '{print "cleanup_performance_coordinators_per_sec " $NF}'
"""


def some_coordinators(client: Redis) -> None:
    """Three stale, one active."""
    write_coordinators(client, [b"stale-%d" % n for n in range(3)], STALE_AGE_MS)
    write_coordinators(client, [b"active"], ACTIVE_AGE_MS)


def summary(output: str) -> str:
    """The one line for machines, without its head."""
    (line,) = (line for line in output.splitlines() if "cleanup_sweep" in line)
    head, _, message = line.partition("[INFO] ")
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] ", head)
    return message


EXPECTED = {
    "outcome": "success",
    "engine": "lua",
    "dry_run": False,
    "checked": 4,
    "active": 1,
    "stale": 3,
    "revived": 0,
    "unreadable": 0,
    "ahead": 0,
    "orphans": 0,
    "orphans_reaped": 0,
    "keys_deleted": 18,
    "errors": 0,
    "threshold_s": 600,
    "reason": None,
}


def test_a_line_of_json(client: Redis, server: Server) -> None:
    some_coordinators(client)
    fields = json.loads(summary(run_command(server.url, CLEANUP_LOG_FORMAT="json").stdout))
    assert fields.pop("event") == "cleanup_sweep"
    assert fields.pop("duration_ms") >= 0
    assert fields == EXPECTED


def test_a_line_of_keys_and_values(client: Redis, server: Server) -> None:
    some_coordinators(client)
    name, *pairs = shlex.split(summary(run_command(server.url).stdout))
    assert name == "cleanup_sweep"
    fields = dict(pair.split("=", 1) for pair in pairs)
    assert fields.pop("duration_ms").isdecimal()
    spelled = {key: value if isinstance(value, str) else json.dumps(value) for key, value in EXPECTED.items()}
    assert fields == spelled


@pytest.mark.parametrize("form", ["keyvalue", "json"])
def test_a_reason_is_one_value(form: str, client: Redis, server: Server) -> None:
    some_coordinators(client)
    client.set(keys.LOCK, "somebody", px=60_000)
    message = summary(run_command(server.url, CLEANUP_LOG_FORMAT=form).stdout)
    fields = (
        json.loads(message)
        if form == "json"
        else dict(pair.split("=", 1) for pair in shlex.split(message)[1:])
    )
    assert (fields["outcome"], fields["reason"]) == ("skipped", "another sweep is running")


def test_failed_and_dry_runs_have_their_line(client: Redis, server: Server) -> None:
    some_coordinators(client)
    dead = run_command("redis://127.0.0.1:1/0")
    assert (dead.returncode, summary(dead.stdout).split()[1]) == (1, "outcome=failed")
    assert summary(run_command(server.url, "--dry-run").stdout).split()[1:4] == [
        "outcome=dry_run",
        "engine=lua",
        "dry_run=true",
    ]


def test_an_unknown_form_is_refused(server: Server) -> None:
    done = run_command(server.url, CLEANUP_LOG_FORMAT="xml")
    assert done.returncode == 2
    assert "CLEANUP_LOG_FORMAT: keyvalue or json" in done.stderr


def test_the_guides_line(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    """On the file that a real worker writes, beside the command's."""
    home = {"HOME": str(tmp_path), "CLEANUP_LOG_FILE": "~/.claude-flow/logs/blocking-cleanup.log"}
    with fleet(server, broker, tmp_path, home) as running:
        running.stack.start_worker()
        some_coordinators(client)
        shown = [running.run()["coordinatorsPerSecond"]]
    some_coordinators(client)
    shown.append(json.loads(run_command(server.url, "--json", **home).stdout)["coordinatorsPerSecond"])
    done = subprocess.run(["bash", "-c", GUIDE], env=os.environ | home, text=True, capture_output=True)
    name = "cleanup_performance_coordinators_per_sec"
    assert done.stdout.splitlines() == [f"{name} {rate:.2f}" for rate in shown]
    assert min(shown) > 0
    # the words that other programs look for are there too
    log = (tmp_path / ".claude-flow/logs/blocking-cleanup.log").read_text()
    found = re.findall(r"  Performance: (\d+\.\d\d) coordinators/sec", log)
    assert found == [f"{rate:.2f}" for rate in shown]


ROTATING = """
import sys
from pathlib import Path
from cleanup_tasks.reporting import logfile
logfile.MAX_BYTES, logfile.BACKUPS = 10_000, 60
logfile.open_log_file(Path(sys.argv[1]))
for line in sys.stdin:
    logfile.logger.info("writer %s line %s", sys.argv[2], line.strip())
    print(flush=True)
"""


def test_processes_share_a_rotated_file(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "cleanup.log"
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ROTATING, str(path), str(number)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(3)
        ]
        # By turns, so that somebody rotates under the others all the time; then as fast as they can
        for lines in [[line] for line in range(200)] + [list(range(200, 600))]:
            for writer in writers:
                assert writer.stdin
                writer.stdin.write("".join(f"{line}\n" for line in lines))
                writer.stdin.flush()
            for writer in writers:
                assert writer.stdout
                for _ in lines:
                    writer.stdout.readline()
    files = list(path.parent.iterdir())
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) <= 10_000
    # nothing is lost, nothing torn, and every file but the last is full
    found = sorted(line.split("[INFO] ")[1] for file in files for line in file.read_text().splitlines())
    assert found == sorted(f"writer {writer} line {line}" for writer in range(3) for line in range(600))
    assert sorted(file.stat().st_size > 9_900 for file in files) == [False] + [True] * (len(files) - 1)


def sweep(server: Server, log_file: str, *, dry_run: bool = False) -> Report:
    """Sweep in this process, as a worker does that lives for long."""
    settings = load_settings(coordination_redis_url=server.url, cleanup_log_file=log_file)
    return Sweep(options_of(settings, check_arguments(dry_run=dry_run))).run()


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null/cleanup.log"], ids=["disk full", "no folder"])
def test_a_file_that_cannot_be_written_costs_one_warning_and_no_sweep(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    some_coordinators(client)
    with caplog.at_level("WARNING"):
        announced = sweep(server, path, dry_run=True)
        done = sweep(server, path)
    assert announced.complete
    assert done.complete
    assert client.dbsize() == announced.keys_deleted // 3
    assert caplog.text.count("Log file can't be written") == 1


def test_a_folder_that_vanishes_costs_no_sweep_and_is_made_anew(
    server: Server, client: Redis, tmp_path: Path
) -> None:
    some_coordinators(client)
    path = tmp_path / "logs" / "cleanup.log"
    for _ in range(3):
        assert sweep(server, str(path), dry_run=True).complete
        shutil.rmtree(path.parent, ignore_errors=True)
    assert sweep(server, str(path), dry_run=True).complete
    assert "Cleanup completed successfully" in path.read_text()
