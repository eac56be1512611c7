"""TLS with verification on by default, and Unix sockets."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from cleanup_tasks.configuration.arguments import check_arguments, options_of
from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import Server, free_port, running_server, wait_until
from tests.support.sweeping import all_keys, heartbeat_values
from tests.support.tls import Authority, tls_relay


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> dict[str, Path]:
    """What our side needs."""
    ours = authority.sign("client")
    return {"ca_file": authority.cert_file, "cert_file": ours.cert_file, "key_file": ours.key_file}


@pytest.fixture
def port(server: Server, client: Redis, authority: Authority) -> Iterator[int]:
    """Where a server with one stale and one active coordinator speaks TLS."""
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    write_coordinators(client, [b"active"], ACTIVE_AGE_MS)
    port = free_port()
    with tls_relay(port, server.port, authority, authority.sign("server")):
        yield port


def sweep(monkeypatch: pytest.MonkeyPatch, url: str, **settings: Any) -> Report:
    """Sweep with these settings in the environment."""
    monkeypatch.setenv("COORDINATION_REDIS_URL", url)
    for name, value in settings.items():
        monkeypatch.setenv(f"COORDINATION_REDIS_{name.upper()}", str(value))
    return Sweep(options_of(Settings.read(), check_arguments())).run()


def test_tls(port: int, client: Redis, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    report = sweep(monkeypatch, f"rediss://127.0.0.1:{port}", **files)
    assert report.complete
    assert report.keys_deleted == 6
    assert all_keys(client) == set(keys_of(b"active"))


def test_a_server_that_nobody_vouches_for(
    port: int,
    client: Redis,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    stranger = Authority(tmp_path, "stranger")
    wrong = files | {"ca_file": stranger.cert_file}
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        sweep(monkeypatch, f"rediss://127.0.0.1:{port}", **wrong)
    monkeypatch.delenv("COORDINATION_REDIS_CA_FILE")
    del wrong["ca_file"]
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        sweep(monkeypatch, f"rediss://127.0.0.1:{port}", **wrong)
    assert len(all_keys(client)) == 12
    # Who turns verification off gets what was asked for.
    assert sweep(monkeypatch, f"rediss://127.0.0.1:{port}", verify=False, **wrong).keys_deleted == 6


def test_a_certificate_for_another_name(
    port: int, client: Redis, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionError, match="certificate verify failed"):
        sweep(monkeypatch, f"rediss://localhost:{port}", **files)
    assert len(all_keys(client)) == 12


def test_a_client_without_certificate(
    port: int, client: Redis, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionError):
        sweep(monkeypatch, f"rediss://127.0.0.1:{port}", ca_file=authority.cert_file)
    assert len(all_keys(client)) == 12


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_CA_FILE", "/nowhere.pem")
    with pytest.raises(InvalidSettings, match="COORDINATION_REDIS_CA_FILE: the path of a PEM file"):
        Settings.read()


def test_tls_on_a_cluster(
    authority: Authority, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    options = {"enabled": "yes", "port": free_port(), "announce-port": port}
    words = [word for name, value in options.items() for word in (f"--cluster-{name}", str(value))]
    with running_server(*words) as node, node.client() as client:
        client.cluster("addslotsrange", 0, 16_383)
        wait_until(lambda: client.cluster("info")["cluster_state"] == "ok", "the cluster is complete")
        now_ms = server_time_ms(client)
        for key in keys_of(b"stale"):
            client.set(key, "1")
        client.set(keys.heartbeat(b"stale"), heartbeat_values(now_ms)["stale"])
        with tls_relay(port, node.port, authority, authority.sign("server")):
            report = sweep(monkeypatch, f"rediss+cluster://127.0.0.1:{port}", **files)
        assert report.complete
        assert report.keys_deleted == 6
        assert all_keys(client) == set()


def test_a_unix_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="cleanup-socket-") as folder:
        path = Path(folder) / "redis.sock"
        with running_server("--unixsocket", str(path)) as server, server.client(db=3) as client:
            write_coordinators(client, [b"stale"], STALE_AGE_MS)
            report = sweep(monkeypatch, f"unix://{path}?db=3")
            assert report.complete
            assert report.keys_deleted == 6
            assert all_keys(client) == set()
