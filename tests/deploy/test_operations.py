"""The documentation's commands for a machine are run, or what they would run in a container."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.settings import Settings
from demo.servers import wait_until
from demo.stack import ROOT
from tests.support.compose import Compose, resolved
from tests.support.kubernetes import KUBERNETES
from tests.support.markdown import MACHINE, Block, blocks, commands

pytestmark = pytest.mark.debian

COMMANDS = [line for _, line in commands() if line.startswith(MACHINE)]
PASSWORDS = dict.fromkeys(
    ("REDIS_PASSWORD", "BROKER_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD"), "secret"
)
_UP = re.compile(r"docker compose (--profile monitoring )?up -d(?: --build| --scale (\w+)=3)?")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a machine with a checkout and the folders that the manual takes for granted."""
    root = tmp_path_factory.mktemp("machine")
    for folder in ("etc/systemd/system", "etc/cleanup", "etc/logrotate.d", "opt"):
        (root / folder).mkdir(parents=True)
    checkout = root / "checkout"
    shutil.copytree(ROOT / "deploy", checkout / "deploy")
    for name in (".env.example", "docker-compose.yml", "docker-compose.external.yml"):
        shutil.copy(ROOT / name, checkout)
    # a checkout whose origin is ours, so that `git pull` has something to pull from
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(checkout)]
    subprocess.run(["git", "init", "--quiet", "--bare", str(root / "origin")], check=True)
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "All"], check=True)
    subprocess.run([*git, "remote", "add", "origin", str(root / "origin")], check=True)
    subprocess.run([*git, "push", "--quiet", "--set-upstream", "origin", "main"], check=True)
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


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:70])
def test_command(command: str, stack: Compose, machine: Path, tmp_path: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    checkout = machine / "checkout"
    if inside := re.fullmatch(r"docker compose exec (\w+) (.+)", command):
        run(inside[2], ROOT, stack[inside[1]].environment)
    elif log := re.fullmatch(r"docker compose logs (\w+) \| (.+)", command):
        assert run(f"cat {stack.folder}/{log[1]}.log | {log[2]}", ROOT, environment)
    elif up := _UP.fullmatch(command):
        services = resolved(PASSWORDS, tmp_path)["services"]
        assert up[1] is None or any("profiles" in service for service in services.values())
        assert up[2] is None or not {"container_name", "ports"} & set(services[up[2]])
        assert stack["worker"].healthy()
    elif files := re.fullmatch(r"docker compose (-f .+) up -d", command):
        # together they are run by tests/deploy/test_compose.py
        assert {"redis", "redis-us"} <= set(resolved(PASSWORDS, tmp_path, *files[1].split())["services"])
    elif units := re.fullmatch(r"sudo systemctl enable --now (.+)", command):
        run(f"systemctl --root={machine} enable {units[1]}", ROOT, environment)
    elif command == "sudo systemctl daemon-reload":
        # after the units have come, before one of them is started
        copied = next(i for i, each in enumerate(COMMANDS) if each.startswith("sudo cp deploy/systemd/"))
        enabled = next(i for i, each in enumerate(COMMANDS) if "systemctl enable" in each)
        assert copied < COMMANDS.index(command) < enabled
    elif command.startswith("sudo /opt/cleanup/bin/pip install"):
        # what it installs is tested by tests/deploy/test_package.py
        run(f"{machine}/opt/cleanup/bin/pip install --help", ROOT, environment)
        assert shlex.split(command)[-1] == "."
    elif apply := re.fullmatch(r"kubectl apply -k (\S+)", command):
        assert run(f"kubectl kustomize {apply[1]}", ROOT, environment)
    elif command.startswith("kubectl create secret"):
        made = yaml.safe_load(run(f"{command} --dry-run=client -o yaml", ROOT, environment))
        asked = {
            (name, key)
            for file in (KUBERNETES / "celery").glob("*.yaml")
            for name, key in re.findall(
                r"secretKeyRef: \{\s*name: (\w+), key: (\w+)", file.read_text().replace("\n", " ")
            )
        }
        assert asked == {(made["metadata"]["name"], key) for key in made["data"]}
    else:
        words = [re.sub(r"^/(etc|opt)/", rf"{machine}/\1/", word) for word in command.split()]
        command = " ".join(words).removeprefix("sudo ")
        assert words[0] not in ("docker", "kubectl"), command
        run(command, checkout, environment)


def test_what_the_commands_left(machine: Path) -> None:
    """After all of them."""
    assert {link.name for link in (machine / "etc/systemd/system").glob("*.wants/*")} == {
        "cleanup-worker.service",
        "cleanup-beat.service",
        "cleanup-flower.service",
        "cleanup-blocking-coordination.timer",
    }
    assert (machine / "checkout/.env").exists()
    done = subprocess.run(
        ["logrotate", "--debug", "--state", machine / "state", machine / "etc/logrotate.d/cleanup"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "error" in done.stderr) == (0, False)


def settings(block: Block) -> dict[str, str]:
    """The variables of a file of them."""
    return dict(line.split("=", 1) for line in block.text.splitlines())


@pytest.mark.parametrize("block", blocks("dotenv"), ids=str)
def test_a_file_of_variables(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(block)
    if "COMPOSE_FILE" in given:
        # added to the example, as the manual says
        (tmp_path / ".env").write_text((ROOT / ".env.example").read_text() + block.text)
        for file in given["COMPOSE_FILE"].split(":"):
            shutil.copy(ROOT / file, tmp_path)
        shown = run("docker-compose config", tmp_path, {"PATH": os.environ["PATH"]})
        services = yaml.safe_load(shown)["services"]
        assert services["redis"]["profiles"] == ["unused"]
        url = services["worker"]["environment"]["COORDINATION_REDIS_URL"]
        assert url == given["COORDINATION_REDIS_URL"]
        monkeypatch.setenv("COORDINATION_REDIS_URL", url)
    else:
        units = [unit.read_text() for unit in (ROOT / "deploy/systemd").glob("*.service")]
        assert all("EnvironmentFile=/etc/cleanup/environment" in unit for unit in units)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        celery = CelerySettings.read()
        assert celery.celery_broker_url.get_secret_value() == given["CELERY_BROKER_URL"]
        assert celery.celery_result_backend.get_secret_value() == given["CELERY_RESULT_BACKEND"]
        assert re.fullmatch(r"\w+:\w+", given["FLOWER_BASIC_AUTH"])
    assert Settings.read().coordination_url == given["COORDINATION_REDIS_URL"]
