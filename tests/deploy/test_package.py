"""The wheel, in a new environment and from another directory."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from redis import Redis

from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server
from demo.stack import ROOT


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command and return what it printed; it must succeed."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    ended = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def packaged(wheel: Path) -> set[str]:
    """The files of a wheel, without those about it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.timeout(600)
def test_the_wheel_cleans_from_another_directory(server: Server, client: Redis, tmp_path: Path) -> None:
    # Given the wheel, made from the source distribution, in a new virtual environment
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert packaged(wheel) == {
        "celeryconfig.py",
        *(str(path.relative_to(ROOT)) for path in (ROOT / "cleanup_tasks").rglob("*.py")),
        "cleanup_tasks/py.typed",
        "cleanup_tasks/lua/delete_if_unchanged.lua",
        "cleanup_tasks/lua/cleanup_blocking_coordination.lua",
    }
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    pip = (home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # When the command runs there
    write_acceptance_data(client, 100, 10)
    command = home / "bin" / "cleanup-blocking-coordination"
    metrics = json.loads(run(command, "--json", cwd=elsewhere, COORDINATION_REDIS_URL=server.url))
    # Then the packaged script did it, and our app finds its configuration
    assert (metrics["implementation"], metrics["keysDeleted"]) == ("lua", 90 * KEYS_EACH)
    assert client.dbsize() == 10 * KEYS_EACH
    code = "from cleanup_tasks import app; print(app.conf.task_default_queue, *app.conf.beat_schedule)"
    shown = run(home / "bin" / "python", "-c", code, cwd=elsewhere)
    assert shown.split() == ["cleanup", "cleanup-blocking-coordination"]
    assert list(elsewhere.iterdir()) == []
