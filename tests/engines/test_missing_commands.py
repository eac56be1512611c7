"""A server or proxy without a command: what only helps is done without, what is needed is named."""

import json
import time
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.engines.lua import script_source
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.servers import acl
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, values_of
from demo.servers import Server, running_server
from tests.support.matrix import binary_of

pytestmark = pytest.mark.every_server

STALE = [b"worker-%d" % number for number in range(3)]
EVERYTHING = {"time", "scan", "getrange"}
#: What can't be done without a command, of engine and whether it is a dry run.
NEEDED: dict[tuple[EngineName, bool], set[str]] = {
    ("lua", True): {*EVERYTHING, "exists"},
    ("lua", False): {*EVERYTHING, "unlink"},
    ("python", True): {*EVERYTHING, "exists", "watch", "multi", "exec"},
    ("python", False): {*EVERYTHING, "unlink", "watch", "multi", "exec"},
}
SCRIPTING = {"evalsha", "script"}
#: What we could think of asking a server for, besides.
OTHERS = {"client", "role", "info", "dbsize", "hello", "config", "mget", "type", "cluster", "wait"}
COMMANDS = sorted(OTHERS | {command.split("|")[0] for command in acl.COMMANDS})


def write(client: Redis) -> None:
    """By commands that are never missing."""
    client.flushall()
    now_ms = int(time.time() * 1000)
    for ids, age_ms in ((STALE, STALE_AGE_MS), ([b"active"], ACTIVE_AGE_MS)):
        for values in values_of(ids, now_ms - age_ms):
            client.mset(values)


def keys(client: Redis) -> set[bytes]:
    found: Any = client.keys()
    return set(found)


def sweep_all(url: str, client: Redis, command: str) -> None:
    """Sweep with each engine, really and not, where a command is missing."""
    doomed = {key for id_ in STALE for key in keys_of(id_)}
    for (engine, dry_run), needed in NEEDED.items():
        write(client)
        before = keys(client)
        options = Options(address=parse(url), engine=engine, dry_run=dry_run, orphans="report")
        if command in needed:
            with pytest.raises(RedisError, match=f"(?i)\\b{command}\\b") as failure:
                sweep_or_fall_back(options)
            text = str(failure.value)
            assert "a sweep can't do without" in text or f"+{command}" in text
            assert "\n" not in text
            assert "with args" not in text
            assert keys(client) - before <= {b"blocking:cleanup:lock"}
            assert before <= keys(client)
            continue
        report = sweep_or_fall_back(options).report
        assert report.complete, (command, engine, dry_run)
        assert report.keys_deleted == len(doomed)
        assert report.implementation == ("python" if command in SCRIPTING else engine)
        assert (keys(client) & doomed == set()) is not dry_run
        assert set(keys_of(b"active")) <= keys(client)


def test_a_command_that_the_user_may_not_send(server: Server, client: Redis) -> None:
    for command in COMMANDS:
        rules = f"reset on >pw ~* +@all -{command}"
        client.execute_command("ACL", "SETUSER", "most", *rules.split())  # type: ignore[no-untyped-call]
        sweep_all(f"redis://most:pw@127.0.0.1:{server.port}", client, command)
    client.acl_deluser("most")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_the_server_does_not_have(server: Server, command: str) -> None:
    binary = str(server.process.args[0])  # type: ignore[index]
    with (
        running_server("--rename-command", command, f"our-{command}", binary=binary) as other,
        other.client(protocol=2) as client,
    ):
        sweep_all(other.url, client, command)


def test_scripts_that_are_replicated_as_they_are() -> None:
    """Redis 6.2 can be told so, and then no script may write after it has asked for the time."""
    config, binary = ("--lua-replicate-commands", "no"), binary_of("redis 6.2")
    with running_server(*config, binary=binary) as server, server.client() as client:
        write(client)
        report = Sweep(Options(address=parse(server.url))).run()
        assert report.complete
        assert report.keys_deleted == 18
        assert keys(client) == set(keys_of(b"active"))
        write(client)
        answer = json.loads(client.eval(script_source("cleanup_blocking_coordination.lua"), 0, "600", "0"))
        assert answer["keysDeleted"] == 18
        assert keys(client) == set(keys_of(b"active"))
