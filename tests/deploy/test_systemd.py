"""The systemd units: accepted by systemd, equally hardened, and of the names that users know."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis import Redis

from cleanup_tasks.configuration.settings import MetricsSettings
from demo.servers import Server, free_port, stop, wait_until
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


class Unit:
    """A service's commands as processes of this machine."""

    def __init__(self, name: str, folder: Path, **variables: str) -> None:
        """`variables` are what /etc/cleanup/environment holds."""
        self._name = name
        self._places = {"/opt/cleanup/bin/": f"{Path(sys.executable).parent}/", "%%": "%"}
        self._places |= dict.fromkeys(("%t", "%L", "%S"), str(folder))
        (folder / name).mkdir()
        own = dict(self._here(value).split("=", 1) for value in self._values("Environment"))
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **own, **variables}

    def _values(self, name: str) -> list[str]:
        text = (ROOT / "deploy" / "systemd" / f"{self._name}.service").read_text()
        return re.findall(rf"^{name}=(.+)$", text, re.MULTILINE)

    def _here(self, text: str) -> str:
        for there, here in self._places.items():
            text = text.replace(there, here)
        return text

    def command(self, name: str) -> list[str]:
        """ExecStart or another."""
        (line,) = self._values(name)
        return self._here(line).removeprefix("-").split()


@pytest.mark.parametrize("arguments", [(), ("--no-such-option",)], ids=["success", "failure"])
def test_the_timers_metrics_are_for_everybody_to_read(
    arguments: tuple[str, ...], server: Server, client: Redis, tmp_path: Path
) -> None:
    unit = Unit("cleanup-blocking-coordination", tmp_path, COORDINATION_REDIS_URL=server.url)
    path = tmp_path / "cleanup-blocking-coordination" / "cleanup.prom"
    path.touch(mode=0o600)
    for command in (["ExecStart", *arguments], ["ExecStopPost"]):
        words = [*unit.command(command[0]), *command[1:]]
        subprocess.run(words, env=unit.environment, umask=0o077, capture_output=True, timeout=60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert ("cleanup_sweeps_total" in path.read_text()) == (not arguments)


def test_flower_listens_on_the_loopback_alone(broker: Server, tmp_path: Path) -> None:
    broker_url = {"CELERY_BROKER_URL": f"{broker.url}/1", "CELERY_RESULT_BACKEND": f"{broker.url}/2"}
    unit = Unit("cleanup-flower", tmp_path, FLOWER_PORT=str(free_port()), **broker_url)
    process = subprocess.Popen(
        unit.command("ExecStart"), cwd=ROOT, env=unit.environment, stderr=subprocess.DEVNULL
    )

    def listening() -> list[str]:
        connections = psutil.Process(process.pid).net_connections("tcp")
        return [connection.laddr.ip for connection in connections if connection.status == "LISTEN"]

    try:
        wait_until(listening, "it listens", 60)
        assert listening() == ["127.0.0.1"]
    finally:
        stop(process)


def test_the_worker_shows_its_metrics(tmp_path: Path) -> None:
    port = Unit("cleanup-worker", tmp_path).environment["CLEANUP_METRICS_PORT"]
    assert len(MetricsSettings.read(cleanup_metrics_port=port).metrics_ports) == 1


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
