"""docker-compose.yml: what it says, and that its services work together."""

import base64
import contextlib
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr
from redis import Redis

from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.servers.client import CLIENT_NAME
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.servers import wait_until
from demo.stack import ROOT
from tests.support.compose import Compose, resolved, seconds
from tests.support.scraping import scrape

pytestmark = pytest.mark.debian

PASSWORDS = {
    "REDIS_PASSWORD": "redissecret",
    "BROKER_PASSWORD": "brokersecret",
    "FLOWER_PASSWORD": "flowersecret",
    "GRAFANA_PASSWORD": "grafanasecret",
}
INTERVAL_S = 2


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All services, as docker-compose understands them."""
    found: dict[str, Any] = resolved(PASSWORDS, tmp_path_factory.mktemp("config"))["services"]
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The stack at work, sweeping every two seconds."""
    environment = PASSWORDS | {
        "CLEANUP_INTERVAL_SECONDS": str(INTERVAL_S),
        "CLEANUP_RESTART_GRACE_SECONDS": "0",
    }
    with Compose(environment, tmp_path_factory.mktemp("stack")) as compose:
        for name in ("redis", "broker"):
            compose.start_server(name)
        for name in ("worker", "flower", "beat"):
            compose[name].start()
        yield compose


def redis_of(stack: Compose) -> Redis:
    """A client of the coordination Redis."""
    return Redis(port=stack.port("redis"), password=PASSWORDS["REDIS_PASSWORD"])


def test_the_stack_sweeps(stack: Compose) -> None:
    with redis_of(stack) as client:
        write_coordinators(client, [b"alive"], ACTIVE_AGE_MS)
        write_coordinators(client, [b"stale-%d" % n for n in range(50)], STALE_AGE_MS)
        wait_until(lambda: not client.exists(b"blocking:heartbeat:stale-49"), "the stale ones are gone", 60)
    wait_until(lambda: scrape(stack.port("metrics"))["cleanup_keys_deleted_total"] == 300, "it is counted")


def test_flower_answers_to_the_login_alone(stack: Compose) -> None:
    wait_until(stack["flower"].healthy, "flower is healthy", 60)
    request = urllib.request.Request(f"http://127.0.0.1:{stack.port('flower')}/tasks")
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        urllib.request.urlopen(request, timeout=10)
    refusal.value.close()
    login = base64.b64encode(b"admin:flowersecret").decode()
    request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert b"Task history" in answer.read()


def test_health_checks_pass_and_fail_when_they_should(stack: Compose) -> None:
    # Given all of them healthy
    for name in ("redis", "broker", "worker", "beat", "flower"):
        wait_until(stack[name].healthy, f"{name} is healthy", 60)
    # A stopped (not ended) worker answers no ping, a stopped beat sends no tick
    for name in ("worker", "beat"):
        process = stack[name].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            wait_until_ill(stack, name)
        finally:
            process.send_signal(signal.SIGCONT)
        wait_until(stack[name].healthy, f"{name} is healthy again", 60)
    # Without the broker the beat sends no tick either
    stack["broker"].stop()
    for name in ("broker", "beat"):
        wait_until_ill(stack, name)
    # Flower answers still, until it has gone
    assert stack["flower"].healthy()
    stack["flower"].stop()
    assert not stack["flower"].healthy()
    assert stack["redis"].healthy()


def wait_until_ill(stack: Compose, name: str) -> None:
    """Until the health check of a service fails."""
    wait_until(lambda: not stack[name].healthy(), f"{name} is not healthy", 60)


def test_three_workers_sweep_one_at_a_time(tmp_path: Path) -> None:
    """``--scale worker=3``: three containers differ by their host name alone, here by what stands for it."""
    with Compose(PASSWORDS, tmp_path) as compose:
        for name in ("redis", "broker"):
            compose.start_server(name)
        names = [compose.add_replica("worker", str(number)) for number in range(3)]
        for name in names:
            wait_until(compose[name].healthy, f"{name} is healthy", 60)
        broker = f"redis://:{PASSWORDS['BROKER_PASSWORD']}@127.0.0.1:{compose.port('broker')}"
        with (
            redis_of(compose) as client,
            Celery("caller", broker=f"{broker}/1", backend=f"{broker}/2", set_as_current=False) as caller,
        ):
            write_coordinators(client, [b"stale-%d" % n for n in range(20_000)], STALE_AGE_MS)
            # Given three sweeps that wait at the lock, all at once
            client.client_pause(60_000, all=False)
            arguments = {"force": True}  # nobody is alive
            results = [
                caller.send_task("cleanup_tasks.cleanup", kwargs=arguments, queue="cleanup") for _ in names
            ]
            wait_until(lambda: len(sweepers(client)) == 3, "three workers are at the lock")
            client.client_unpause()
            done = [result.get(timeout=60) for result in results]
    # Then one does all the work, and the others say why they did none
    assert sorted(metrics["keysDeleted"] for metrics in done) == [0, 0, 120_000]
    assert [metrics["skipped"] for metrics in done].count("another sweep is running") == 2


def sweepers(client: Redis) -> list[str]:
    """The connections of sweeps that have sent their SET of the lock."""
    return [c["id"] for c in client.client_list() if c["name"].startswith(CLIENT_NAME) and c["cmd"] == "set"]


def test_two_targets(tmp_path: Path) -> None:
    """The example in deploy/targets: each has an interval of its own, and only workers know the URLs."""
    environment = PASSWORDS | {"CLEANUP_RESTART_GRACE_SECONDS": "0"}
    with Compose(environment, tmp_path, "deploy/targets/compose.yml") as compose:
        servers = ("redis", "redis-us")
        for name in (*servers, "broker"):
            compose.start_server(name)
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(Redis(port=compose.port(name), password=PASSWORDS["REDIS_PASSWORD"]))
                for name in servers
            ]
            for client in clients:
                write_coordinators(client, [b"stale-%d" % n for n in range(5)], 2 * STALE_AGE_MS)
                write_coordinators(client, [b"alive"], ACTIVE_AGE_MS)
            for name in ("worker", "beat"):
                compose[name].start()

            def are_clean() -> bool:
                heartbeats = "blocking:heartbeat:*"
                return all(list(c.scan_iter(heartbeats)) == [b"blocking:heartbeat:alive"] for c in clients)

            wait_until(are_clean, "both are clean", 60)
        expected = {"eu": (300, 600), "us": (600, 900)}
        for target, (interval_s, _) in expected.items():
            deleted = f'cleanup_keys_deleted_total{{target="{target}"}}'
            wait_until(lambda: scrape(compose.port("metrics"))[deleted] == 30, "it is counted")  # noqa: B023
            figures = scrape(compose.port("metrics"))
            assert figures[f'cleanup_interval_seconds{{target="{target}"}}'] == interval_s
        for target, (_, threshold_s) in expected.items():
            lines = compose["worker"].log.splitlines()
            assert any(f"target={target} " in line and f"threshold_s={threshold_s}" in line for line in lines)
        wait_until(compose["beat"].healthy, "beat is healthy")
        services = compose.config["services"]
        grace_s = seconds(services["worker"]["stop_grace_period"])
        assert grace_s > 0.9 * max(interval_s for interval_s, _ in expected.values())
        knowing = {name for name, each in services.items() if PASSWORDS["REDIS_PASSWORD"] in str(each)}
        assert knowing == {*servers, "worker"}
        assert services["redis-us"].keys() == services["redis"].keys() - {"ports"}


def test_the_example_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    resolved(example, tmp_path)
    wanted = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert set(example) == wanted
    # what it says are the defaults, and nothing is missing that needs neither a mount nor another service
    for name in ("CLEANUP_LOG_FILE", "COORDINATION_REDIS_URL", "CLEANUP_RESTART_GRACE_SECONDS"):
        monkeypatch.delenv(name)
    defaults = Settings.read()
    for name, value in example.items():
        monkeypatch.setenv(name, value)
    assert Settings.read() == defaults.model_copy(update={"redis_password": SecretStr("change-me-1")})
    fixed = {"redis_host", "redis_port", "redis_username", "redis_db", "cleanup_log_file"}
    mounted = {"coordination_redis_credential_provider"}
    mounted |= {name for name in Settings.model_fields if name.endswith("_file")}
    assert {name.upper() for name in set(Settings.model_fields) - fixed - mounted} <= set(example)


def test_a_coordination_redis_that_is_there_already(tmp_path: Path) -> None:
    """The overlay leaves out the service redis, and nothing else misses it."""
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.external.yml")
    url = "rediss://user:secret@redis.example.com:6379/0"
    services = resolved(PASSWORDS | {"COORDINATION_REDIS_URL": url}, tmp_path, *files)["services"]
    assert services["redis"]["profiles"] == ["unused"]
    assert services["worker"]["environment"]["COORDINATION_REDIS_URL"] == url
    assert {name for service in services.values() for name in service.get("depends_on", ())} == {
        "broker",
        "prometheus",
    }
    # and without a URL it says where to look
    with pytest.raises(AssertionError, match=r"see docker-compose\.external\.yml"):
        resolved(PASSWORDS, tmp_path, *files)


def test_what_dotenv_says_reaches_the_worker(tmp_path: Path) -> None:
    given = {"CLEANUP_ORPHANS": "reap", "CLEANUP_HOLD_PERCENT": "50", "COORDINATION_REDIS_VERIFY": "false"}
    worker = resolved(PASSWORDS | given, tmp_path)["services"]["worker"]
    assert worker["environment"].items() >= given.items()


@pytest.mark.parametrize("missing", list(PASSWORDS))
def test_no_password_no_start(missing: str, tmp_path: Path) -> None:
    (tmp_path / "dotenv").write_text("".join(f"{k}={v}\n" for k, v in PASSWORDS.items() if k != missing))
    done = subprocess.run(
        ["docker-compose", "--env-file", str(tmp_path / "dotenv"), "config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        text=True,
        capture_output=True,
    )
    assert done.returncode != 0
    assert "see .env.example" in done.stderr


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "broker", "worker", "beat", "flower", "prometheus", "grafana"}
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }
    for name, service in services.items():
        assert service["restart"] == "always", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] != "0", name
        assert service["healthcheck"]["test"], name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        mounts = service.get("volumes", ())
        assert all(mount.endswith(":ro") or mount.split("-data:")[0] == name for mount in mounts), name


@pytest.mark.parametrize("interval_s", [60, 300, 3600])
def test_stop_grace_is_above_the_hard_time_limit(interval_s: int, tmp_path: Path) -> None:
    config = resolved(PASSWORDS | {"CLEANUP_INTERVAL_SECONDS": str(interval_s)}, tmp_path)
    assert seconds(config["services"]["worker"]["stop_grace_period"]) > 0.9 * interval_s


def test_the_coordination_password_is_the_workers_alone(services: dict[str, Any]) -> None:
    def knows(service: dict[str, Any]) -> bool:
        return PASSWORDS["REDIS_PASSWORD"] in str(service)

    assert {name for name, service in services.items() if knows(service)} == {"redis", "worker"}


def test_the_image_gets_what_it_copies() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    for source in " ".join(copies).split():
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed, source
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
