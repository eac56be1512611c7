"""The systemd units: accepted by systemd, equally hardened, and of the names that users know."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.stack import ROOT

pytestmark = pytest.mark.debian

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
#: systemd's own measure, 0 (closed) to 10 (open); below 2 it says OK.
EXPOSURE = 1.5


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units in a folder, with this environment's commands in place of /opt/cleanup's."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/cleanup/bin/", f"{Path(sys.executable).parent}/")
        (folder / unit.name).write_text(text)
    return folder


def test_the_units_that_are_there() -> None:
    assert [unit.name for unit in UNITS] == [
        "cleanup-beat.service",
        "cleanup-blocking-coordination.service",
        "cleanup-blocking-coordination.timer",
        "cleanup-flower.service",
        "cleanup-worker.service",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts(unit: Path, installed: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed / unit.name)], text=True, capture_output=True
    )
    ours = [line for line in done.stderr.splitlines() if "cleanup" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_exposure(unit: Path, installed: Path) -> None:
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=yes",
            "--no-pager",
            f"--threshold={int(10 * EXPOSURE)}",
            str(installed / unit.name),
        ],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    score = re.search(r"Overall exposure level for .*: (\S+)", done.stdout)
    assert score is not None
    assert float(score[1]) <= EXPOSURE


def test_all_are_hardened_alike() -> None:
    blocks = {unit.read_text().split("# Hardening")[1].split("[Install]")[0].strip() for unit in SERVICES}
    assert len(blocks) == 1


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_commands_exist_and_take_these_options(unit: Path) -> None:
    (command,) = re.findall(r"^ExecStart=/opt/cleanup/bin/(.+)$", unit.read_text(), re.MULTILINE)
    words = command.replace("%%", "%").split()
    assert shutil.which(words[0], path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [Path(sys.executable).parent / words[0], *words[1:], "--help"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
