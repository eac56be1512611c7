"""The smallest ACL user can do the whole job, on every server; one that lacks something is told what."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.rules import keys
from cleanup_tasks.servers import acl
from cleanup_tasks.servers.errors import ScriptingRefused, is_transient
from cleanup_tasks.servers.lock import SweepLock
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import Server, running_server, wait_until
from demo.stack import ROOT
from tests.support.sweeping import NOTES, all_keys, keys_of_command, monitored, script_calls

pytestmark = pytest.mark.every_server

STALE = [b"worker-%d" % number for number in range(3)]
PASSWORD = "p@ss/w:rd"
URL_PASSWORD = "p%40ss%2Fw%3Ard"
OWNER = "the same task"
ENGINES: tuple[EngineName, ...] = ("lua", "python")


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


def as_cleanup(server: Server, *, password: str = URL_PASSWORD, **options: Any) -> Options:
    """The inputs of a sweep as that user, which reports orphans."""
    address = parse(f"redis://cleanup:{password}@127.0.0.1:{server.port}/0")
    return Options(address=address, owner=OWNER, **{"orphans": "report", **options})


def test_reaping_orphans_takes_a_few_commands_more(server: Server, client: Redis, data: None) -> None:
    client.delete(keys.heartbeat(STALE[0]))
    more = " ".join(f"+{command}" for command in acl.ORPHANS)
    set_user(client, f"{acl.rules()} {more}")
    for by in ENGINES:
        # noted at the first sighting, reaped at the second, one threshold later
        client.set(keys.signal(b"orphan"), "1")
        for reaped in (0, 1):
            report = Sweep(as_cleanup(server, engine=by, orphans="reap")).run()
            assert report.complete
            assert report.orphaned_coordinators_reaped == reaped * report.orphaned_coordinators_found
            for id_ in client.hkeys(keys.SIGHTINGS):
                client.hset(keys.SIGHTINGS, id_, "1")
    assert all_keys(client) - NOTES == set(keys_of(b"active"))
    assert denied(client) == set()


def denied(client: Redis) -> set[str]:
    """What the server refused, by its own log."""
    return {str(entry["object"]) for entry in client.acl_log()}


@pytest.mark.parametrize("by", ENGINES)
def test_the_smallest_user_does_the_whole_job(
    server: Server, client: Redis, data: None, by: EngineName
) -> None:
    set_user(client, acl.rules())
    client.set(keys.LOCK, OWNER, px=10_000)
    assert Sweep(as_cleanup(server, engine=by, dry_run=True)).run().keys_deleted == 18
    assert len(all_keys(client)) == 25
    calls = script_calls(client)
    report = Sweep(as_cleanup(server, engine=by)).run()
    assert (script_calls(client) > calls) == (by == "lua")
    assert report.complete
    assert report.keys_deleted == 18
    assert all_keys(client) == set(keys_of(b"active"))
    assert denied(client) == set()


def exercise(server: Server, client: Redis) -> None:
    """Everything that a sweep may do, whatever of it fails."""
    client.set(keys.LOCK, OWNER, px=10_000)
    for by in ENGINES:
        for dry_run in (True, False):
            with contextlib.suppress(RedisError, ScriptingRefused):
                Sweep(as_cleanup(server, engine=by, dry_run=dry_run)).run()
    # with a lock that it renews
    with server.client(username="cleanup", password=PASSWORD) as user, contextlib.suppress(RedisError):
        lock = SweepLock(user, OWNER, ttl_s=0.3)
        lock.acquire()
        time.sleep(0.11)  # a third of that
        lock.renew()
    # and where somebody else has taken the lock meanwhile, for ever
    client.delete(keys.LOCK)
    with contextlib.suppress(RedisError, ScriptingRefused):
        Sweep(as_cleanup(server, progress=lambda *_: client.set(keys.LOCK, "another"))).run()
        Sweep(as_cleanup(server, progress=lambda *_: client.set(keys.LOCK, "another"))).run()
    client.delete(keys.LOCK)


def test_every_permission_is_needed(server: Server, client: Redis, data: None) -> None:
    needless = []
    for command in acl.COMMANDS:
        set_user(client, " ".join(rule for rule in acl.rules().split() if rule != f"+{command}"))
        acl_command(client, "LOG", "RESET")
        write_coordinators(client, STALE, STALE_AGE_MS)
        exercise(server, client)
        if not {command, command.split("|")[0]} & denied(client):
            needless.append(command)
        assert set(keys_of(b"active")) <= all_keys(client)
    assert needless == []


@pytest.mark.parametrize("command", acl.SCRIPTING)
def test_without_scripting_the_fallback_does_it(
    server: Server, client: Redis, data: None, command: str
) -> None:
    set_user(client, " ".join(rule for rule in acl.rules().split() if rule != f"+{command}"))
    with pytest.raises(ScriptingRefused):
        Sweep(as_cleanup(server)).run()
    report = sweep_or_fall_back(as_cleanup(server)).report
    assert report.complete
    assert report.implementation == "python"
    assert report.keys_deleted == 18
    assert report.fallback_reason is not None
    assert command.split("|")[0] in report.fallback_reason
    assert all_keys(client) == set(keys_of(b"active"))


@pytest.mark.parametrize("lacking", ["+unlink", "+time", "+getrange", "+scan", "~coordinator:activity:*"])
def test_what_no_code_can_do_without_is_one_clear_failure(
    server: Server, client: Redis, data: None, lacking: str
) -> None:
    set_user(client, " ".join(rule for rule in acl.rules().split() if rule != lacking))
    before = all_keys(client)
    with pytest.raises(NoPermissionError) as failure:
        sweep_or_fall_back(as_cleanup(server))
    message = str(failure.value)
    assert lacking[1:] in message
    assert f"the user needs {acl.rules()}" in message
    assert PASSWORD not in message
    assert URL_PASSWORD not in message
    assert not is_transient(failure.value)
    assert all_keys(client) - {keys.LOCK} == before


def test_a_wrong_password_is_not_tried_again(server: Server, client: Redis, data: None) -> None:
    set_user(client, acl.rules())
    with pytest.raises(AuthenticationError) as failure:
        Sweep(as_cleanup(server, password="wrong-password")).run()
    assert not is_transient(failure.value)
    assert "wrong-password" not in str(failure.value)


@pytest.mark.parametrize("by", ENGINES)
def test_every_key_is_declared_and_every_command_on_the_list(
    server: Server, client: Redis, data: None, by: EngineName
) -> None:
    client.set("blocking:idempotency:worker-0:worker-1:done:1:2", "1")
    client.set("blocking:idempotency:worker-0:stranger:done:1:1700000000000", "1")

    def act() -> None:
        for dry_run in (True, False):
            Sweep(Options(address=parse(server.url), engine=by, dry_run=dry_run)).run()

    commands = monitored(client, act)
    allowed = {"hello", *(command.split("|")[0] for command in acl.COMMANDS)}
    declared: Sequence[str] = []
    scripts = 0
    for sender, words in commands:
        assert words[0].lower() in allowed, words
        touched = keys_of_command(words)
        assert all(any(fnmatch(key, pattern) for pattern in acl.KEY_PATTERNS) for key in touched), words
        if words[0].upper() == "EVALSHA":
            declared = touched
            scripts += 1
        elif sender == "lua":
            assert set(touched) <= set(declared), words
    assert (scripts > 0) == (by == "lua")
    assert any(words[0].upper() == "UNLINK" for _, words in commands)


def test_a_dry_run_says_that_it_looks_at_a_replica(
    server: Server, client: Redis, data: None, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("repl-diskless-sync-delay", 0)
    binary = server.process.args[0]  # type: ignore[index]
    with running_server("--replicaof", "127.0.0.1", str(server.port), binary=str(binary)) as replica:
        with replica.client() as direct:
            wait_until(lambda: direct.info("replication")["master_link_status"] == "up", "it is in step")
        with caplog.at_level(logging.WARNING, "cleanup_tasks"):
            report = Sweep(Options(address=parse(replica.url), dry_run=True)).run()
    assert report.keys_deleted == 18
    assert "replica" in caplog.text


def test_the_documentation_names_the_smallest_user() -> None:
    page = " ".join((ROOT / "docs" / "connecting.md").read_text().split())
    assert f"ACL SETUSER cleanup on >password {acl.rules()} `" in page
    for more in (acl.ORPHANS, acl.DATABASE, acl.CLUSTER):
        assert f"`{' '.join(f'+{command}' for command in more)}`" in page
