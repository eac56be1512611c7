"""What isn't what the URL says is refused before anything is touched, in one line that says what to do."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, TimeoutError

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.servers import client as client_module
from cleanup_tasks.servers.errors import WrongServer, is_transient
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, free_port, running_server, wait_until
from tests.support.proxy import Proxy
from tests.support.sentinels import SERVICE, running_sentinels
from tests.support.sweeping import all_keys
from tests.support.tls import Authority, tls_relay

SECRET = "hunter2"
EVERYTHING: dict[str, Any] = {"keys": ["*"], "commands": ["+@all"]}
ENGINES: tuple[EngineName, ...] = ("lua", "python")


@dataclass(frozen=True)
class Places:
    """Ports by what is there, and the files for TLS."""

    ports: dict[str, int]
    authority: Path
    trusting: Tls


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cleanup-tls-")))
        authority = Authority(folder)
        ours = authority.sign("client")
        sentinels = stack.enter_context(running_sentinels())
        ports = {"sentinel": sentinels.ports[0], "tls": free_port(), "nobody": free_port()}
        for name, config in {
            "server": [],
            "cluster": ["--cluster-enabled", "yes", "--cluster-port", str(free_port())],
            "password": [],
        }.items():
            ports[name] = stack.enter_context(running_server(*config)).port
        ports["replica"] = next(
            server.port for server in sentinels.servers if server is not sentinels.primary()
        )
        with Redis(port=ports["password"]) as locked:
            locked.config_set("requirepass", SECRET)
        with Redis(port=ports["cluster"]) as node:
            node.cluster("addslotsrange", 0, 16_383)
            wait_until(lambda: node.cluster("info")["cluster_state"] == "ok", "the cluster is complete")
        stack.enter_context(tls_relay(ports["tls"], ports["server"], authority, authority.sign("server")))
        trusting = Tls(authority.cert_file, ours.cert_file, ours.key_file)
        yield Places(ports, authority.cert_file, trusting)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis://127.0.0.1:{cluster}", "this is one node of a cluster: use redis+cluster://host:port"),
        ("redis://127.0.0.1:{sentinel}", "this is a sentinel: use redis+sentinel://host:port/service"),
        ("redis://127.0.0.1:{sentinel}/1", "if this is a sentinel, use redis+sentinel://"),
        ("redis+cluster://127.0.0.1:{sentinel}", "if this is a sentinel, use redis+sentinel://"),
        ("redis+cluster://127.0.0.1:{server}", "this is no node of a cluster; use redis://host:port"),
        (
            "redis+sentinel://127.0.0.1:{server}/x",
            "unknown command SENTINEL) (this is no sentinel; use redis://host:port)",
        ),
        ("redis+sentinel://127.0.0.1:{sentinel}/other", f"known are {SERVICE}"),
        ("redis://127.0.0.1:{replica}", "this is a replica: use its primary"),
        ("rediss://127.0.0.1:{server}", "if this port speaks no TLS, use redis://"),
        ("redis://127.0.0.1:{tls}", "if this port speaks TLS, use rediss://"),
        ("rediss://localhost:{tls}", "the certificate is for another name"),
        ("redis://:{secret}@127.0.0.1:{server}", "the server asks for no password; leave it out"),
        ("redis://u:{secret}@127.0.0.1:{server}", "check user and password"),
        ("redis://:{secret}x@127.0.0.1:{password}", "check user and password"),
        ("redis://127.0.0.1:{password}", "Authentication required (give the password"),
        ("redis://127.0.0.1:{server}/99", "out of range (choose another database number in the URL)"),
        ("redis+cluster://127.0.0.1:{cluster}/99", "choose another database number in the URL"),
        ("redis://127.0.0.1:{nobody}", "Connection refused (is the server running, and are host"),
        ("redis://nowhere.invalid", "is the host name right?"),
    ],
)
def test_a_hint(places: Places, url: str, hint: str) -> None:
    address = parse(url.format(secret=SECRET, **places.ports))
    sweep = Sweep(Options(address=address, tls=places.trusting))
    with pytest.raises(RedisError) as failure:
        sweep.run()
    text = str(failure.value)
    assert hint in text
    assert SECRET not in text
    assert "\n" not in text
    assert not sweep.connected


@pytest.mark.parametrize(
    ("tls", "hint"),
    [
        (Tls(), "COORDINATION_REDIS_CA_FILE names the authority's PEM file"),
        (None, "COORDINATION_REDIS_CERT_FILE and COORDINATION_REDIS_KEY_FILE name it"),
    ],
    ids=["authority unknown", "no certificate of ours"],
)
def test_a_hint_about_certificates(places: Places, tls: Tls | None, hint: str) -> None:
    address = parse(f"rediss://127.0.0.1:{places.ports['tls']}")
    with pytest.raises(RedisError) as failure:
        Sweep(Options(address=address, tls=tls or Tls(places.authority))).run()
    assert hint in str(failure.value)


def test_a_replica_may_become_a_primary_and_a_wrong_place_stays_one(places: Places) -> None:
    for name, kind in {"replica": ReadOnlyError, "cluster": WrongServer, "sentinel": WrongServer}.items():
        with pytest.raises(kind) as failure:
            Sweep(Options(address=parse(f"redis://127.0.0.1:{places.ports[name]}"))).run()
        assert is_transient(failure.value) == (name == "replica")


def test_no_login_is_an_authentication_error(places: Places) -> None:
    with pytest.raises(AuthenticationError) as failure:
        Sweep(Options(address=parse(f"redis://127.0.0.1:{places.ports['password']}"))).run()
    assert not is_transient(failure.value)


@pytest.mark.every_server
@pytest.mark.parametrize("renamed", [[], ["--rename-command", "HELLO", ""]], ids=["", "without HELLO"])
@pytest.mark.parametrize("slots", [0, 8_000, 16_384], ids=["no slots", "half", "all slots"])
def test_a_node_of_a_cluster_is_never_taken_for_the_whole(
    server: Server, slots: int, renamed: list[str]
) -> None:
    config = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", *renamed)
    binary = str(server.process.args[0])  # type: ignore[index]
    with running_server(*config, binary=binary) as node, node.client(protocol=2) as client:
        for first in range(0, slots, 1_000):
            client.cluster("addslots", *range(first, min(slots, first + 1_000)))
        wait_until(
            lambda: not slots or client.cluster("info")["cluster_state"] == "ok", "the cluster is complete"
        )
        for engine in ENGINES:
            for dry_run in (True, False):
                with pytest.raises(WrongServer, match="one node of a cluster"):
                    Sweep(Options(address=parse(node.url), engine=engine, dry_run=dry_run)).run()


def test_a_database_of_a_cluster() -> None:
    config = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-databases", "4")
    with running_server(*config) as node, node.client() as client:
        client.cluster("addslotsrange", 0, 16_383)
        wait_until(lambda: client.cluster("info")["cluster_state"] == "ok", "the cluster is complete")
        for engine in ENGINES:
            for number in (0, 3):
                client.select(number)
                for key in ("blocking:heartbeat:x", "blocking:signal:x"):
                    client.set(key, '{"timestamp": 1600000000000}')
            report = Sweep(
                Options(address=parse(f"redis+cluster://127.0.0.1:{node.port}/3"), engine=engine)
            ).run()
            assert report.complete
            assert report.keys_deleted == 2
            assert all_keys(client) == set()
            client.select(0)
            assert len(all_keys(client)) == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["redis://127.0.0.1:{}", "redis+cluster://127.0.0.1:{}"])
def test_a_reply_that_drips_is_given_up(
    places: Places, layout: str, engine: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "REPLY_S", 0.5)
    port = places.ports["cluster" if "cluster" in layout else "server"]
    with Proxy(port) as proxy:
        proxy.drip_s = 0.05  # each byte comes well within the time-out of the socket
        begun_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"a reply was not complete after 0\.5 s") as failure:
            Sweep(Options(address=parse(layout.format(proxy.port)), engine=engine)).run()
        assert time.monotonic() - begun_s < 4
        assert is_transient(failure.value)


class Tokens(CredentialProvider):
    """A new token for each connection, and no other is good any more."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.given = 0

    def get_credentials(self) -> tuple[str, str]:
        self.given += 1
        token = f"token {self.given}"
        self._client.acl_setuser(
            "cleanup", enabled=True, reset_passwords=True, passwords=[f"+{token}"], **EVERYTHING
        )
        return "cleanup", token


@pytest.mark.every_server
@pytest.mark.parametrize("engine", ["lua", "python"])
def test_a_login_that_changes_with_each_connection(server: Server, client: Redis, engine: EngineName) -> None:
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    tokens = Tokens(client)
    try:
        address = replace(parse(server.url), credentials=tokens)
        assert Sweep(Options(address=address, engine=engine)).run().keys_deleted == 6
        assert Sweep(Options(address=address, engine=engine)).run().complete
    finally:
        client.acl_deluser("cleanup")
    assert tokens.given > 1


def test_valkey_is_another_name(server: Server, client: Redis) -> None:
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    address = parse(server.url.replace("redis:", "valkey:"))
    assert Sweep(Options(address=address)).run().keys_deleted == 6
