"""The log: one line for machines, the original's file, and the guide's own line on it."""

import contextlib
import fcntl
import gzip
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

from cleanup_tasks.configuration.arguments import check_arguments, options_of
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
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
    "target": "default",
    "engine": "lua",
    "dry_run": False,
    "checked": 4,
    "active": 1,
    "stale": 3,
    "revived": 0,
    "unreadable": 0,
    "unreadable_reasons": None,
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


def test_a_target_with_a_hyphen_needs_no_quotes(client: Redis, server: Server) -> None:
    place = {"COORDINATION_REDIS_URL__EU_1": server.url}
    told = summary(run_command("", "--target", "eu-1", **place).stdout)
    assert " target=eu-1 " in told


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
    assert summary(run_command(server.url, "--dry-run").stdout).split()[1:5] == [
        "outcome=dry_run",
        "target=default",
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


WRITING = """
import sys
from pathlib import Path
from cleanup_tasks.reporting import logfile
for line in sys.stdin:
    logfile.open_log_file(Path(sys.argv[1]))
    logfile.logger.info("writer %s line %s", sys.argv[2], line.strip())
    print(flush=True)
"""


def test_processes_share_a_file_that_is_renamed_under_them(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "cleanup.log"
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITING, str(path), str(number)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(3)
        ]
        for turn in range(20):
            for writer in writers:
                assert writer.stdin
                writer.stdin.write("".join(f"{turn * 30 + line}\n" for line in range(30)))
                writer.stdin.flush()
            # the first has written all, the others are in the midst of it
            for writer in writers:
                assert writer.stdout
                for _ in range(30):
                    writer.stdout.readline()
                if writer is writers[0]:
                    path.rename(path.with_suffix(f".{turn}"))
    files = list(path.parent.iterdir())
    assert len(files) >= 20
    found = sorted(line.split("[INFO] ")[1] for file in files for line in file.read_text().splitlines())
    assert found == sorted(f"writer {writer} line {line}" for writer in range(3) for line in range(600))


def sweep(server: Server, log_file: str, *, dry_run: bool = False) -> Report:
    """Sweep in this process, as a worker does that lives for long."""
    settings = Settings.read(coordination_redis_url=server.url, cleanup_log_file=log_file)
    return Sweep(options_of(settings, check_arguments(dry_run=dry_run))).run()


@pytest.mark.debian
def test_logrotate(server: Server, client: Redis, tmp_path: Path) -> None:
    """Its configuration in deploy/, with this path in place of those; a sweep before and one after."""
    path = tmp_path / "cleanup.log"
    text, paths = re.subn(
        r"^/var/log/\S+$", "", (ROOT / "deploy" / "logrotate").read_text(), flags=re.MULTILINE
    )
    assert paths == 2
    configuration = tmp_path / "logrotate"
    configuration.write_text(text.replace("{", f"{path} {{", 1))
    configuration.chmod(0o644)
    for _ in range(3):
        assert sweep(server, str(path), dry_run=True).complete
        state = ["--state", str(tmp_path / "state")]
        done = subprocess.run(
            ["/usr/sbin/logrotate", "--force", *state, str(configuration)], text=True, capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    files = {file.name for file in tmp_path.iterdir()} - {"logrotate", "state"}
    assert files == {"cleanup.log.1", "cleanup.log.2.gz", "cleanup.log.3.gz"}
    contents = [(tmp_path / "cleanup.log.1").read_text()]
    contents += [gzip.decompress((tmp_path / f"cleanup.log.{n}.gz").read_bytes()).decode() for n in (2, 3)]
    assert [content.count("cleanup_sweep ") for content in contents] == [1, 1, 1]


def test_a_symlink_is_written_through(server: Server, client: Redis, tmp_path: Path) -> None:
    link, target = tmp_path / "link.log", tmp_path / "elsewhere" / "target.log"
    target.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):
        assert sweep(server, str(link), dry_run=True).complete
    target.rename(target.with_suffix(".1"))
    assert sweep(server, str(link), dry_run=True).complete
    assert link.readlink() == target
    counts = [file.read_text().count("cleanup_sweep ") for file in (target.with_suffix(".1"), target)]
    assert counts == [2, 1]


def test_standard_output_is_a_log_file_too(server: Server, client: Redis) -> None:
    some_coordinators(client)
    done = run_command(server.url, "--json", CLEANUP_LOG_FILE="/dev/stdout")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[INFO] Cleanup completed successfully" in done.stdout
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(
    "path",
    ["/dev/full", "/dev/null/cleanup.log", "/", "{folder}/pipe"],
    ids=["disk full", "no folder", "a folder", "a pipe that nobody reads"],
)
def test_a_file_that_cannot_be_written_costs_one_warning_and_no_sweep(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture, tmp_path: Path, path: str
) -> None:
    some_coordinators(client)
    os.mkfifo(tmp_path / "pipe")
    path = path.format(folder=tmp_path)
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


def test_a_hosts_log_level_is_its_own(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    """At WARNING a worker prints no line of an ordinary sweep; the log file has them all the same."""
    path = tmp_path / "cleanup.log"
    with fleet(server, broker, tmp_path, {"CLEANUP_LOG_FILE": str(path)}) as running:
        options = ("--queues", "cleanup", "--concurrency", "1", "--loglevel", "WARNING")
        running.stack.start("worker", "worker", *options)
        some_coordinators(client)
        assert running.run()["keysDeleted"] == 18
        assert "[INFO] Cleanup completed successfully" in path.read_text()
        assert "Cleanup" not in running.stack.log("worker")
        assert "INFO" not in running.stack.log("worker")
        # while what is a warning to us is one to the host
        client.hset(keys.LOCK, "not", "a string")
        assert running.run()["complete"]
        warning = "Sweep lock is somebody's key of another type"
        assert running.stack.log("worker").count(warning) == path.read_text().count(warning) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_no_pool_waits_for_the_log_file(
    pool: str, client: Redis, server: Server, broker: Server, tmp_path: Path
) -> None:
    """Not for itself, nor for whoever has locked file and folder."""
    path = tmp_path / "logs" / "cleanup.log"
    path.parent.mkdir()
    path.touch()
    with contextlib.ExitStack() as stack:
        for held in (path, path.parent):
            descriptor = os.open(held, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        running = stack.enter_context(fleet(server, broker, tmp_path, {"CLEANUP_LOG_FILE": str(path)}))
        running.stack.start_worker("worker", "--pool", pool)
        some_coordinators(client)
        assert [running.run()["keysDeleted"] for _ in range(2)] == [18, 0]
    assert path.read_text().count("outcome=success") == 2
