"""The newcomer's commands: they do what they say, touch nobody's Redis, and leave no process and no file."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.rules import keys
from demo.dataset import write_coordinators
from demo.interrupts import interruptible
from demo.servers import Server, free_port, running_server, stop, wait_until
from demo.stack import ROOT, Stack, without_settings
from tests.support import leftovers
from tests.support.markdown import blocks

#: What tools keep in the checkout.
CACHES = (".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__")


@contextmanager
def started(module: str, folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A module of the demo with its own home and temporary folder, and where its output goes.

    At the end there are no files in them, none that is new in the checkout, and no process.
    """
    places = {"HOME": folder / "home", "TMPDIR": folder / "temporary"}
    for place in places.values():
        place.mkdir()
    output = folder / "output"
    mark = leftovers.mark()
    variables = without_settings(os.environ) | {name: str(place) for name, place in places.items()}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80", **mark, **environment}
    checkout = leftovers.files_in(ROOT, without=CACHES)
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=variables,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, output
    finally:
        stop(process, seconds=60)
    leftovers.assert_no_process(mark)
    assert [list(place.iterdir()) for place in places.values()] == [[], []]
    assert leftovers.files_in(ROOT, without=CACHES) == checkout
    shown = output.read_text()
    assert "Traceback" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_demo_shows_the_main_job(tmp_path: Path) -> None:
    with started("demo", tmp_path) as (process, output):
        assert process.wait(120) == 0, output.read_text()
    shown = output.read_text()
    assert "Task cleanup_tasks.cleanup, SUCCESS" in shown
    # with what README shows of it, but for the time
    (block,) = (block.text for block in blocks("text") if "keysDeleted: 59,400" in block.text)
    for line in re.sub(r"[\d.]+ s$", "", block, flags=re.MULTILINE).splitlines():
        assert " ".join(line.split()) in ("…", "") or " ".join(line.split()) in " ".join(shown.split())
    assert "keys of the living that are still there: 600" in shown
    assert "cleanup_tasks.cleanup_fallback" in shown


@pytest.mark.parametrize("moment", ["keys before", "Now starting a worker", "✓ implementation: lua"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, moment: str) -> None:
    with started("demo", tmp_path) as (process, output):
        wait_until(lambda: moment in output.read_text(), f"the demo says {moment!r}", seconds=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert output.read_text().endswith("Everything is stopped, and nothing is left behind.\n")


def interrupt_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SIGINT come right after a process was started, before anybody could note that it was."""

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)


def test_ctrl_c_right_after_a_start_leaves_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = leftovers.mark()
    interrupt_each_start(monkeypatch)
    with pytest.raises(KeyboardInterrupt), interruptible(), Stack(mark, tmp_path) as stack:
        stack.start_worker()
    leftovers.assert_no_process(mark)


def test_ctrl_c_right_after_a_start_leaves_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = leftovers.mark()
    monkeypatch.setenv(leftovers.MARK, mark[leftovers.MARK])
    interrupt_each_start(monkeypatch)
    with pytest.raises(KeyboardInterrupt), interruptible(), running_server():
        pass
    leftovers.assert_no_process(mark)


def test_up_plays_with_its_own_servers_until_ctrl_c(tmp_path: Path, server: Server, client: Redis) -> None:
    # Given a Redis of the user's that all variables name, with somebody who is dead by any threshold
    write_coordinators(client, [b"the users"], age_ms=86_400_000)
    before = client.info("keyspace")
    theirs = {
        "COORDINATION_REDIS_URL": server.url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "CELERY_BROKER_URL": f"{server.url}/1",
        "CELERY_RESULT_BACKEND": f"{server.url}/2",
    }
    port = free_port()
    with started("demo.up", tmp_path, FLOWER_PORT=str(port), **theirs) as (process, output):
        # When it has swept at the start, and by its beat
        wait_until(lambda: output.read_text().count("  Sweep: ") > 1, "there are two sweeps", seconds=90)
        (url,) = re.findall(r"--redis-url (\S+)", output.read_text())
        with Redis.from_url(url) as playground:
            alive = sum(1 for _ in playground.scan_iter(f"{keys.HEARTBEAT.decode()}*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    shown = output.read_text()
    # Then the living are there, and the user's keys as they were
    assert alive >= 10
    assert client.info("keyspace") == before
    assert f"variables of your environment are not used here: {', '.join(sorted(theirs))}." in " ".join(
        shown.split()
    )
    assert f"Open http://127.0.0.1:{port}/tasks" in shown
    assert "Dry run: 1,000 checked, 990 dead, 5,940 keys would be deleted." in shown
    assert "Sweep: 1,000 checked, 990 dead, 5,940 keys deleted in " in shown


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        with started("demo.up", tmp_path, FLOWER_PORT=str(port)) as (process, output):
            assert process.wait(60) == 1
    assert output.read_text() == (
        f"  ✗ Port {port} is already in use. Use another one: make up FLOWER_PORT=5556\n"
    )


def test_a_wrong_port_is_one_line(tmp_path: Path) -> None:
    with started("demo.up", tmp_path, FLOWER_PORT="http") as (process, output):
        assert process.wait(60) == 1
    assert output.read_text() == "  ✗ FLOWER_PORT must be a number from 1 to 65535; it is 'http'.\n"
