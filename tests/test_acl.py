"""The smallest ACL user can do the whole job, on every server; one that lacks something is told what."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from cleanup_tasks import acl, keys, options
from cleanup_tasks.address import Address
from cleanup_tasks.batch import Batch
from cleanup_tasks.connection import client_of
from cleanup_tasks.engines import ScriptingRefused
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.failures import is_transient
from cleanup_tasks.options import Options
from cleanup_tasks.report import Report
from cleanup_tasks.run import Run
from cleanup_tasks.settings import load_settings
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import Server, running_server, wait_until
from tests.sweeping import all_keys, reap, script_calls

pytestmark = pytest.mark.every_server

STALE = [b"worker-%d" % number for number in range(3)]
PASSWORD = "p@ss/w:rd"
URL_PASSWORD = "p%40ss%2Fw%3Ard"
OWNER = "the same task"


@pytest.fixture
def data(client: Redis) -> Iterator[None]:
    """Three stale coordinators and an active one; users are gone afterwards."""
    write_coordinators(client, STALE, STALE_AGE_MS)
    write_coordinators(client, [b"active"], ACTIVE_AGE_MS)
    yield
    acl_command(client, "DELUSER", "cleanup")
    acl_command(client, "LOG", "RESET")


def acl_command(client: Redis, *arguments: str) -> Any:
    return client.execute_command("ACL", *arguments)  # type: ignore[no-untyped-call]


def set_user(client: Redis, rules: str) -> None:
    acl_command(client, "SETUSER", "cleanup", "reset", "on", f">{PASSWORD}", *rules.split())


def run(
    server: Server,
    *,
    fallback: bool = False,
    dry_run: bool = False,
    password: str = URL_PASSWORD,
    orphans: str = "report",
) -> Run:
    """A run as that user, not started yet."""
    url = f"redis://cleanup:{password}@127.0.0.1:{server.port}/0"
    settings = load_settings(coordination_redis_url=SecretStr(url))
    reason = "requested" if fallback else None
    checked = options.check(dry_run=dry_run, orphans=orphans)
    return Run(settings, checked, fallback_reason=reason, owner=OWNER)


def test_reaping_orphans_takes_a_few_commands_more(server: Server, client: Redis, data: None) -> None:
    client.delete(keys.heartbeat(STALE[0]))
    more = " ".join(f"+{command}" for command in acl.ORPHANS)
    set_user(client, f"{acl.RULES} {more}")
    for fallback in (False, True):
        # noted at the first sighting, reaped at the second, one threshold later
        client.set(keys.signal(b"orphan"), "1")
        for reaped in (0, 1):
            report = run(server, fallback=fallback, orphans="reap").sweep()
            assert report.complete
            assert report.orphaned_coordinators_reaped == reaped * report.orphaned_coordinators_found
            for id_ in client.hkeys(keys.SIGHTINGS):
                client.hset(keys.SIGHTINGS, id_, "1")
    assert all_keys(client) - {keys.SIGHTINGS} == set(keys_of(b"active"))
    assert denied(client) == set()


def denied(client: Redis) -> set[str]:
    """What the server refused, by its own log."""
    return {str(entry["object"]) for entry in client.acl_log()}


@pytest.mark.parametrize("fallback", [False, True], ids=["lua", "python"])
def test_the_smallest_user_does_the_whole_job(
    server: Server, client: Redis, data: None, fallback: bool
) -> None:
    set_user(client, acl.RULES)
    client.set(keys.LOCK, OWNER, px=10_000)
    assert run(server, fallback=fallback, dry_run=True).sweep().keys_deleted == 18
    assert len(all_keys(client)) == 25
    calls = script_calls(client)
    report = run(server, fallback=fallback).sweep()
    assert (script_calls(client) > calls) is not fallback
    assert report.complete
    assert report.keys_deleted == 18
    assert all_keys(client) == set(keys_of(b"active"))
    assert denied(client) == set()


def exercise(server: Server, client: Redis) -> None:
    """Everything that a sweep may do, whatever of it fails."""
    attempts = [
        run(server, dry_run=True).sweep,
        run(server).sweep,
        run(server, fallback=True, dry_run=True).sweep,
        run(server, fallback=True).sweep,
    ]
    client.set(keys.LOCK, OWNER, px=10_000)
    for attempt in attempts:
        with contextlib.suppress(RedisError, ScriptingRefused):
            attempt()
    address = Address(username="cleanup", password=PASSWORD)
    with client_of(address, "127.0.0.1", server.port) as user, contextlib.suppress(RedisError):
        reap(PythonEngine(user), Batch(own={b"active": []}), dry_run=True)


@pytest.mark.parametrize("command", acl.COMMANDS)
def test_every_permission_is_needed(server: Server, client: Redis, data: None, command: str) -> None:
    set_user(client, " ".join(rule for rule in acl.RULES.split() if rule != f"+{command}"))
    exercise(server, client)
    assert command in denied(client) or command.split("|")[0] in denied(client)
    assert set(keys_of(b"active")) <= all_keys(client)


@pytest.mark.parametrize("command", acl.SCRIPTING)
def test_without_scripting_the_fallback_does_it(
    server: Server, client: Redis, data: None, command: str
) -> None:
    set_user(client, " ".join(rule for rule in acl.RULES.split() if rule != f"+{command}"))
    with pytest.raises(ScriptingRefused):
        run(server).sweep()
    report = run(server).sweep_or_fall_back()
    assert report.complete
    assert report.implementation == "python"
    assert report.keys_deleted == 18
    assert report.fallback_reason is not None
    assert command.split("|")[0] in report.fallback_reason
    assert all_keys(client) == set(keys_of(b"active"))


@pytest.mark.parametrize("lacking", ["+unlink", "+time", "+mget", "+scan", "~coordinator:activity:*"])
def test_what_no_code_can_do_without_is_one_clear_failure(
    server: Server, client: Redis, data: None, lacking: str
) -> None:
    set_user(client, " ".join(rule for rule in acl.RULES.split() if rule != lacking))
    before = all_keys(client)
    with pytest.raises(NoPermissionError) as failure:
        run(server).sweep_or_fall_back()
    message = str(failure.value)
    assert lacking[1:] in message
    assert f"the user needs {acl.RULES}" in message
    assert PASSWORD not in message
    assert URL_PASSWORD not in message
    assert not is_transient(failure.value)
    assert all_keys(client) - {keys.LOCK} == before


def test_a_wrong_password_is_not_tried_again(server: Server, client: Redis, data: None) -> None:
    set_user(client, acl.RULES)
    with pytest.raises(AuthenticationError) as failure:
        run(server, password="wrong-password").sweep()
    assert not is_transient(failure.value)
    assert "wrong-password" not in str(failure.value)


def monitored(client: Redis, act: Callable[[], None]) -> list[tuple[str, list[str]]]:
    """What our clients, and their scripts, sent while something was done: from ``tcp`` or ``lua``."""
    commands: list[tuple[str, list[str]]] = []
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        client.ping()
        others = {str(other["addr"]) for other in client.client_list()}
        act()
        client.echo("that is all")
        for entry in monitor.listen():
            words = entry["command"].split(" ")
            if words[0].upper() == "ECHO":
                break
            if f"{entry['client_address']}:{entry['client_port']}" not in others:
                commands.append((entry["client_type"], words))
    return commands


def keys_of_command(words: list[str]) -> list[str]:
    """The keys that a command names."""
    name = words[0].upper()
    if name in ("MGET", "EXISTS", "UNLINK", "WATCH"):
        return words[1:]
    if name in ("SET", "GET", "PEXPIRE"):
        return words[1:2]
    if name == "EVALSHA":
        return words[3 : 3 + int(words[2])]
    return []


@pytest.mark.parametrize("fallback", [False, True], ids=["lua", "python"])
def test_every_key_is_declared_and_every_command_on_the_list(
    server: Server, client: Redis, data: None, fallback: bool
) -> None:
    def act() -> None:
        url = SecretStr(f"redis://127.0.0.1:{server.port}/0")
        for dry_run in (True, False):
            reason = "requested" if fallback else None
            settings = load_settings(coordination_redis_url=url)
            Run(settings, Options(dry_run=dry_run), fallback_reason=reason).sweep()

    commands = monitored(client, act)
    allowed = {command.split("|")[0] for command in acl.COMMANDS}
    declared: list[str] = []
    scripts = 0
    for sender, words in commands:
        assert words[0].lower() in allowed, words
        touched = keys_of_command(words)
        assert all(any(fnmatch(key, pattern) for pattern in acl.KEY_PATTERNS) for key in touched), words
        if words[0].upper() == "EVALSHA":
            assert touched, words
            declared = touched
            scripts += 1
        elif sender == "lua":
            assert set(touched) <= set(declared), words
    assert (scripts > 0) is not fallback
    assert any(words[0].upper() == "UNLINK" for _, words in commands)


def test_a_dry_run_says_that_it_looks_at_a_replica(
    server: Server, client: Redis, data: None, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("repl-diskless-sync-delay", 0)
    binary = server.process.args[0]  # type: ignore[index]
    with running_server("--replicaof", "127.0.0.1", str(server.port), binary=str(binary)) as replica:
        with replica.client() as direct:
            wait_until(lambda: direct.info("replication")["master_link_status"] == "up", "it is in step")
        settings = load_settings(coordination_redis_url=SecretStr(replica.url))
        with caplog.at_level(logging.WARNING, "cleanup_tasks"):
            report: Report = Run(settings, Options(dry_run=True)).sweep()
    assert report.keys_deleted == 18
    assert "replica" in caplog.text


def test_the_readme_names_the_smallest_user() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"ACL SETUSER cleanup on >password {acl.RULES}\n" in readme
    for more in (acl.ORPHANS, acl.DATABASE, acl.CLUSTER):
        assert f"`{' '.join(f'+{command}' for command in more)}`" in readme
