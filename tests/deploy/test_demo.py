"""The newcomer's commands: they do what they say, and leave no process and no file."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from demo.servers import free_port, stop, wait_until
from demo.stack import ROOT


@contextmanager
def started(module: str, folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A module of the demo with its own folder for temporary files, and where its output goes."""
    temporary = folder / "temporary"
    temporary.mkdir()
    output = folder / "output"
    variables = {name: value for name, value in os.environ.items() if name != "COORDINATION_REDIS_URL"}
    variables |= {"TMPDIR": str(temporary), **environment}
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
    assert list(temporary.iterdir()) == []


def test_demo_shows_the_main_job(tmp_path: Path) -> None:
    with started("demo", tmp_path) as (process, output):
        assert process.wait(120) == 0, output.read_text()
    shown = output.read_text()
    assert "task cleanup_tasks.cleanup, SUCCESS" in shown
    assert "keysDeleted: 59400" in shown
    assert "keys of the living that stayed: 600" in shown
    assert "cleanup_tasks.cleanup_fallback" in shown


@pytest.mark.parametrize("moment", ["keys before", "starting a worker", "✓ implementation: lua"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, moment: str) -> None:
    with started("demo", tmp_path) as (process, output):
        wait_until(lambda: moment in output.read_text(), f"the demo says {moment!r}", seconds=60)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert psutil.wait_procs(children, timeout=10)[1] == []
    assert "Traceback" not in output.read_text()


def test_up_runs_until_ctrl_c(tmp_path: Path) -> None:
    with started("demo.up", tmp_path, FLOWER_PORT=str(free_port())) as (process, output):
        wait_until(lambda: "Everything is up" in output.read_text(), "the stack is up", seconds=90)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert psutil.wait_procs(children, timeout=10)[1] == []
    assert "Dashboard: http://127.0.0.1:" in output.read_text()
