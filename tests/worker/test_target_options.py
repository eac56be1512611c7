"""The command's options for targets."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import CLIENT_NAME, server_time_ms
from demo.clusters import running_nodes
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.servers import Server, free_port, running_server, wait_until
from tests.support.clusters import RunningCluster
from tests.support.clusters import write_coordinators as write_on_cluster
from tests.support.command import reports_where_one_is_down, run_command
from tests.support.scraping import read
from tests.support.terminal import on_terminal, run_on_terminal

STALE = 5
KEYS = 6 * STALE


@pytest.fixture(scope="module")
def targets() -> Iterator[tuple[Server, RunningCluster]]:
    """A server and a cluster."""
    with running_server() as healthy, running_nodes() as nodes:
        with healthy.client() as client:
            client.acl_setuser(
                "agent", enabled=True, passwords=["+hidden"], keys=["*"], commands=["+@all"], channels=["*"]
            )
        yield healthy, RunningCluster(nodes)


@pytest.fixture
def environment(targets: tuple[Server, RunningCluster], tmp_path: Path) -> dict[str, str]:
    """Three targets, one of them down; the others with dead coordinators and a living one."""
    healthy, cluster = targets
    with healthy.client() as client:
        client.flushall()
        write_coordinators(client, [b"stale-%d" % n for n in range(STALE)], STALE_AGE_MS)
        write_coordinators(client, [b"alive"], ACTIVE_AGE_MS)
    cluster.clear()
    write_on_cluster(cluster, [b"stale-%d" % n for n in range(STALE)])
    write_on_cluster(cluster, [b"alive"], "active")
    config = tmp_path / "cleanup.toml"
    config.write_text(
        f"""
        [targets.healthy]
        url = "redis://agent:hidden@127.0.0.1:{healthy.port}"
        [targets.down]
        url = "redis://agent:hidden@127.0.0.1:{free_port()}"
        [targets.cluster]
        url = "{cluster.url}"
        """
    )
    return {"CLEANUP_CONFIG": str(config)}


def test_all_targets_side_by_side(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "cleanup.prom"
    ended = run_command("", "--all-targets", "--metrics-file", str(file), **environment)
    assert ended.returncode == 1  # the worst
    lines = [line.split("] ", 2)[2] for line in ended.stdout.splitlines()]
    summaries = sorted(line.split()[1:3] for line in lines if line.startswith("cleanup_sweep "))
    assert summaries == [
        ["outcome=failed", "target=down"],
        ["outcome=success", "target=cluster"],
        ["outcome=success", "target=healthy"],
    ]
    assert lines[-1] == "3 targets, 1 no connection: 12 coordinators checked, 10 stale, 60 keys deleted"
    assert "[down] Redis connection failed" in ended.stderr
    assert "hidden" not in ended.stdout + ended.stderr
    figures = read(file)
    deleted = {
        name: figures[f'cleanup_keys_deleted_total{{target="{name}"}}'] for name in ("healthy", "down")
    }
    assert deleted == {"healthy": KEYS, "down": 0}


def test_some_targets_as_json(environment: dict[str, str]) -> None:
    ended = run_command("", "--target", "healthy", "--target", "cluster", "--json", **environment)
    assert ended.returncode == 0, ended.stderr
    reports = json.loads(ended.stdout)
    assert [(report["target"], report["keysDeleted"]) for report in reports] == [
        ("healthy", KEYS),
        ("cluster", KEYS),
    ]


def test_all_targets_as_json_name_those_that_failed(environment: dict[str, str]) -> None:
    ended = run_command("", "--all-targets", "--json", **environment)
    reports = reports_where_one_is_down(ended)
    assert reports["healthy"]["failure"] is None


@pytest.mark.parametrize("is_bad", [True, False])
def test_a_fault_of_one_target_is_that_targets(environment: dict[str, str], is_bad: bool) -> None:
    wrong = environment | {"COORDINATION_REDIS_URL_FILE__BAD": "/nowhere/at/all"}
    ended = run_command("", "--target", "bad" if is_bad else "healthy", "--json", **wrong)
    assert ended.returncode == (2 if is_bad else 0), ended.stderr
    assert ("COORDINATION_REDIS_URL_FILE__BAD: " in ended.stderr) == is_bad


@pytest.mark.parametrize("option", ["--all-targets", "--list-targets"])
def test_all_targets_need_right_settings(
    environment: dict[str, str], targets: tuple[Server, RunningCluster], option: str
) -> None:
    wrong = environment | {"COORDINATION_REDIS_URL_FILE__BAD": "/nowhere/at/all"}
    ended = run_command("", option, "--json", **wrong)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "COORDINATION_REDIS_URL_FILE__BAD: " in ended.stderr
    with targets[0].client() as client:
        assert client.dbsize() == KEYS + 6


def test_a_credential_provider_that_breaks(
    environment: dict[str, str], targets: tuple[Server, RunningCluster], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(
        "from redis import CredentialProvider\n"
        "class Broken(CredentialProvider):\n"
        "    def get_credentials(self): raise RuntimeError('no token today')\n"
    )
    wrong = environment | {
        "PYTHONPATH": str(tmp_path),
        "COORDINATION_REDIS_URL__BROKEN": targets[0].url,
        "COORDINATION_REDIS_CREDENTIAL_PROVIDER__BROKEN": "broken:Broken",
    }
    ended = run_command("", "--list-targets", "--json", **wrong)
    assert ended.returncode == 1, ended.stderr
    found = {each["target"]: each for each in json.loads(ended.stdout)}
    assert list(found) == ["broken", "cluster", "down", "healthy"]
    assert (found["broken"]["server"], found["broken"]["error"]) == (None, "RuntimeError('no token today')")
    assert found["healthy"]["server"]
    for more in ([], ["--dry-run"], ["--explain"]):
        ended = run_command("", "--target", "broken", *more, **wrong)
        assert ended.returncode == 1
        assert "Redis connection failed: RuntimeError('no token today')" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_one_target(environment: dict[str, str]) -> None:
    ended = run_command("", "--target", "healthy", "--json", **environment)
    assert (ended.returncode, json.loads(ended.stdout)["target"]) == (0, "healthy")


def test_people_see_a_line_each_and_a_sum(environment: dict[str, str]) -> None:
    shown = run_on_terminal("", "--all-targets", "--dry-run", **environment)
    lines = [" ".join(line.split()) for line in shown.screen]
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("Target")) :]
    assert table[0] == "Target Checked Stale Would delete Time Result"
    cluster, down, healthy, total = table[1:]
    assert cluster.startswith("cluster 6 5 30 ")
    assert down.startswith("down 0 0 0 ")
    assert down.endswith("[DRY-RUN] no connection")
    assert healthy.startswith("healthy 6 5 30 ")
    assert healthy.endswith("[DRY-RUN] done")
    assert total == "3 targets 12 10 60 1 no connection"


def test_where_they_are(environment: dict[str, str], targets: tuple[Server, RunningCluster]) -> None:
    healthy, _ = targets
    ended = run_command("", "--list-targets", "--json", **environment)
    assert ended.returncode == 1
    found = {each["target"]: each for each in json.loads(ended.stdout)}
    assert list(found) == ["cluster", "down", "healthy"]
    assert found["healthy"]["redis"] == f"127.0.0.1:{healthy.port}, database 0"
    assert found["healthy"]["server"].startswith(("valkey 9.", "redis 9."))
    assert found["cluster"]["redis"].startswith("the cluster of 127.0.0.1:")
    assert found["cluster"]["server"] == found["healthy"]["server"]
    assert found["down"]["server"] is None
    assert "refused" in found["down"]["error"]
    assert {each["lastSweepSeconds"] for each in found.values()} == {None}
    with healthy.client() as client:
        client.set(keys.COOLDOWN, server_time_ms(client) - 125_000)
    ended = run_command("", "--list-targets", "--json", **environment)
    seconds = {each["target"]: each["lastSweepSeconds"] for each in json.loads(ended.stdout)}
    assert (seconds["cluster"], seconds["down"]) == (None, None)
    assert 125 <= seconds["healthy"] < 180
    screen = "\n".join(run_on_terminal("", "--list-targets", **environment).screen)
    assert "not reachable" in screen
    assert "2 min ago" in screen
    assert "unknown" in screen
    assert "hidden" not in ended.stdout + ended.stderr + screen


def test_a_proxy_that_does_not_say_what_it_is() -> None:
    with running_server("--rename-command", "HELLO", "") as proxy:
        ended = run_command(proxy.url, "--list-targets", "--json")
    (found,) = json.loads(ended.stdout)
    assert (ended.returncode, found["server"], found["error"]) == (0, "unknown", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "healthier"), "--target: no target is called 'healthier'; did you mean healthy?"),
        (("--target", "asia"), "no target is called 'asia'; known are cluster, down, healthy"),
        (
            (),
            "no target is called 'default': choose one with --target NAME, or --all-targets "
            "(known: cluster, down, healthy)",
        ),
        (("--all-targets", "--target", "healthy"), "give only one of them"),
        (("--all-targets", "--redis-url", "redis://h"), "give only one of them"),
        (("--list-targets", "--target", "healthy"), "--all-targets, --list-targets and --redis-url"),
        (("--all-targets", "--explain"), "--explain is for one target"),
    ],
)
def test_a_wrong_choice_touches_nothing(
    environment: dict[str, str],
    targets: tuple[Server, RunningCluster],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    ended = run_command("", *arguments, **environment)
    assert ended.returncode == 2
    assert message in ended.stderr
    with targets[0].client() as client:
        assert client.dbsize() == KEYS + 6


def test_a_url_of_its_own_needs_no_configured_target(
    environment: dict[str, str], targets: tuple[Server, RunningCluster]
) -> None:
    url = f"redis://agent:hidden@127.0.0.1:{targets[0].port}"
    wrong = environment | {"COORDINATION_REDIS_URL__EU": "nonsense"}
    ended = run_command("", "--redis-url", url, "--json", **wrong)
    assert (ended.returncode, json.loads(ended.stdout)["target"]) == (0, "default"), ended.stderr


def test_a_misspelt_variable_is_named(environment: dict[str, str]) -> None:
    wrong = environment | {"CLEANUP_STALE_TRESHOLD_SECONDS": "700"}
    ended = run_command("", "--target", "healthy", "--json", **wrong)
    assert ended.returncode == 0
    warning = (
        "Unknown variable CLEANUP_STALE_TRESHOLD_SECONDS is ignored; did you mean CLEANUP_STALE_THRESHOLD"
    )
    assert warning in ended.stderr


def test_a_signal_ends_all_of_them(
    environment: dict[str, str], targets: tuple[Server, RunningCluster]
) -> None:
    """Both wait for their locks on paused servers; each is told at its next step, and both say so."""
    healthy, cluster = targets
    arguments = ("--target", "healthy", "--target", "cluster", "--verbose")
    with contextlib.ExitStack() as stack:
        first, *nodes = (stack.enter_context(s.client()) for s in (healthy, *cluster.servers))
        for client in (first, *nodes):
            client.client_pause(60_000, all=False)
            stack.callback(client.client_unpause)
        shown = stack.enter_context(on_terminal("", *arguments, **environment))
        wait_until(lambda: is_at_its_lock(first), "one sweep is at its lock")
        wait_until(lambda: any(map(is_at_its_lock, nodes)), "the other too")
        os.kill(shown.process.pid, signal.SIGTERM)
        for client in (first, *nodes):
            client.client_unpause()
        shown.read()
    assert shown.process.returncode == 128 + signal.SIGTERM
    for target in ("healthy", "cluster"):
        assert f"[{target}] Cleanup interrupted" in shown.written
        assert f"outcome=incomplete target={target}" in shown.written
    assert "Traceback" not in shown.written


def is_at_its_lock(client: Redis) -> bool:
    """Whether a sweep has sent its SET of the lock."""
    return any(c["name"].startswith(CLIENT_NAME) and c["cmd"] == "set" for c in client.client_list())
