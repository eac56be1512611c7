"""Every command of docs/operations.md is run: as it stands, or what it would run inside a container."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.servers import wait_until
from demo.stack import ROOT
from tests.support.compose import Compose, resolved

pytestmark = pytest.mark.debian

MANUAL = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", MANUAL, re.S | re.M) for line in block.splitlines()
]
PASSWORDS = dict.fromkeys(
    ("REDIS_PASSWORD", "BROKER_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD"), "secret"
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a machine with a checkout and the folders that the manual takes for granted."""
    root = tmp_path_factory.mktemp("machine")
    for folder in ("etc/systemd/system", "etc/cleanup", "var/lib/prometheus/node-exporter"):
        (root / folder).mkdir(parents=True)
    checkout = root / "checkout"
    checkout.mkdir()
    for name in (".env.example", "docker-compose.yml"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / "deploy", checkout / "deploy")
    # a checkout whose origin is ours, so that `git pull` has something to pull from
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C"]
    subprocess.run(["git", "init", "--quiet", "--bare", str(root / "origin")], check=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(checkout)], check=True)
    subprocess.run([*git, str(checkout), "add", "--all"], check=True)
    subprocess.run([*git, str(checkout), "commit", "--quiet", "--message", "All"], check=True)
    subprocess.run([*git, str(checkout), "remote", "add", "origin", str(root / "origin")], check=True)
    subprocess.run([*git, str(checkout), "push", "--quiet", "--set-upstream", "origin", "main"], check=True)
    return root


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """What `docker compose up` starts, sweeping every second."""
    environment = PASSWORDS | {"CLEANUP_INTERVAL_SECONDS": "1"}
    with Compose(environment, tmp_path_factory.mktemp("stack")) as compose:
        for name in ("redis", "broker"):
            compose.start_server(name)
        for name in ("worker", "beat"):
            compose[name].start()
        for name in ("worker", "beat"):
            wait_until(compose[name].healthy, f"{name} is healthy", 60)
        wait_until(lambda: "cleanup_sweep" in compose["worker"].log, "a sweep is in the log", 60)
        yield compose


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, stack: Compose, machine: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        **{name: value for name, value in stack["worker"].environment.items() if name.startswith("REDIS_")},
        "CLEANUP_LOG_FILE": "",
    }
    cwd = machine / "checkout"
    if inside := re.fullmatch(r"docker compose exec (\w+) (.+)", command):
        command, environment, cwd = inside[2], stack[inside[1]].environment, ROOT
    elif log := re.fullmatch(r"docker compose logs (\w+) \| (.+)", command):
        command = f"cat {stack.folder}/{log[1]}.log | {log[2]}"
    elif up := re.fullmatch(
        r"docker compose (--profile monitoring )?up -d(?: --build| --scale (\w+)=3)?", command
    ):
        services = resolved(PASSWORDS, tmp_path)["services"]
        assert up[1] is None or any("profiles" in service for service in services.values())
        assert up[2] is None or not {"container_name", "ports"} & set(services[up[2]])
        assert stack["worker"].healthy()
        return
    elif units := re.fullmatch(r"sudo systemctl enable --now (.+)", command):
        command = f"systemctl --root={machine} enable {units[1]}"
    else:
        words = [re.sub(r"^/(etc|var)/", rf"{machine}/\1/", word) for word in shlex.split(command)]
        # a glob stays one for the shell
        command = " ".join(words).removeprefix("sudo ")
        assert "docker" not in command
    done = subprocess.run(["bash", "-c", command], cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_commands_left(machine: Path) -> None:
    """After all of them: the units are enabled, the metrics written."""
    wanted = machine / "etc/systemd/system"
    assert {link.name for link in wanted.glob("*.wants/*")} == {
        "cleanup-worker.service",
        "cleanup-beat.service",
        "cleanup-flower.service",
        "cleanup-blocking-coordination.timer",
    }
    metrics = (machine / "var/lib/prometheus/node-exporter/cleanup.prom").read_text()
    assert 'cleanup_sweeps_total{engine="lua",outcome="success",target="default"} 1.0' in metrics


def test_the_lines_for_an_application_are_those_of_the_foreign_fleet() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", MANUAL, re.S | re.M)
    tried = (ROOT / "tests" / "support" / "foreign.py").read_text()
    # but for the pace of the beat
    for line in block.replace("300", "2").splitlines():
        assert line in tried.splitlines()
