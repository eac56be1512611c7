"""Real sentinels: whoever they call the primary is swept."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, ReadOnlyError, TimeoutError

from cleanup_tasks.configuration.arguments import check_arguments, options_of
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.servers.client import CLIENT_NAME
from cleanup_tasks.servers.errors import is_transient
from cleanup_tasks.servers.hints import with_hint
from cleanup_tasks.servers.pipelining import LOW_LATENCY
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.servers.topology import Topology, servers_at
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import free_port, running_server, wait_until
from demo.stack import ROOT, Stack
from tests.support.matrix import binary_of
from tests.support.sentinels import SERVICE, Sentinels, running_sentinel, running_sentinels
from tests.support.sweeping import Before, all_keys, clean, new_report
from tests.support.tls import Authority, tls_relay

SERVER_PASSWORD = "the-server-s"
#: The batch ahead of which something happens: some have landed, others are under way.
NUMBER = 5
IDS = [b"worker-%d" % number for number in range(1_000)]
ACTIVE = [b"active-%d" % number for number in range(5)]


@pytest.fixture(scope="module")
def shared_sentinels() -> Iterator[Sentinels]:
    with running_sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def sentinels(shared_sentinels: Sentinels) -> Sentinels:
    """1,000 stale coordinators and 5 active ones, on whichever is the primary."""
    with shared_sentinels.primary().client() as client:
        client.flushall()
        write_coordinators(client, IDS, STALE_AGE_MS)
        write_coordinators(client, ACTIVE, ACTIVE_AGE_MS)
    return shared_sentinels


@contextlib.contextmanager
def connected(sentinels: Sentinels) -> Iterator[Topology]:
    """Whatever they call the primary; the first of the sentinels is down."""
    ports = [free_port(), *sentinels.ports]
    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    with servers_at(parse(f"redis+sentinel://{places}/{SERVICE}/0")) as servers:
        servers.connect()
        yield servers


def in_the_middle(act: Callable[[], None]) -> Callable[[int, Batch], None]:
    """Do something ahead of one batch."""

    def happen(number: int, _batch: Batch) -> None:
        if number == NUMBER:
            act()

    return happen


def keys_of_active() -> set[bytes]:
    return {key for id_ in ACTIVE for key in keys_of(id_)}


def reachable(sentinels: Sentinels) -> bool:
    """Whether a sentinel names a primary in good health; during a failover none does for a moment."""
    with contextlib.suppress(ConnectionError), connected(sentinels):
        return True
    return False


@pytest.mark.parametrize(
    ("engine_class", "act"),
    [(LuaEngine, Sentinels.fail_over), (PythonEngine, Sentinels.kill_primary)],
    ids=["a failover and lua", "a killed primary and python"],
)
def test_a_new_primary_between_two_batches(
    sentinels: Sentinels,
    engine_class: type[LuaEngine] | type[PythonEngine],
    act: Callable[[Sentinels], None],
) -> None:
    old = sentinels.primary()
    first = new_report(engine_class.name)
    with connected(sentinels) as servers:
        engine = Before(engine_class(servers.client_for(b"")), in_the_middle(lambda: act(sentinels)))
        with pytest.raises(ConnectionError) as failure:
            clean(servers, engine, first)
    # The connections to the old primary are closed, and nothing is begun any more.
    assert len(engine.batches) <= NUMBER + engine.in_flight
    assert is_transient(failure.value)
    assert not first.complete
    assert first.keys_deleted > 0
    # A next attempt, which a task makes by itself, finds the new primary and does the rest.
    wait_until(lambda: sentinels.primary() is not old and reachable(sentinels), "the replica takes over")
    with sentinels.primary().client() as client:
        left = len(all_keys(client)) - len(keys_of_active())
    second = new_report(engine_class.name)
    with connected(sentinels) as servers:
        clean(servers, engine_class(servers.client_for(b"")), second)
    assert second.complete
    assert second.keys_deleted == left
    # What is not known of is counted as an error, and is no more than what was under way.
    unknown = 6 * len(IDS) - left - first.keys_deleted
    assert 0 <= unknown <= first.cleanup_errors * LOW_LATENCY.batch_keys
    assert 0 < first.cleanup_errors <= engine.in_flight
    with sentinels.primary().client() as client:
        assert all_keys(client) == keys_of_active()


def test_a_primary_that_was_cut_off_says_so_at_the_end() -> None:
    """It takes all that it is sent, but it is the primary no more, and the new one has none of it."""
    with running_sentinels() as sentinels:
        old, new = sentinels.servers
        with old.client() as client:
            write_coordinators(client, IDS, STALE_AGE_MS)
            write_coordinators(client, ACTIVE, ACTIVE_AGE_MS)

        def name_the_new_one(what: str, _done: int, _total: int) -> None:
            for port in sentinels.ports if what == "reaping" else []:
                with Redis(port=port) as sentinel:
                    sentinel.sentinel_remove(SERVICE)
                    sentinel.sentinel_monitor(SERVICE, "127.0.0.1", new.port, 1)

        places = ",".join(f"127.0.0.1:{port}" for port in sentinels.ports)
        address = parse(f"redis+sentinel://{places}/{SERVICE}/0")
        sweep = Sweep(Options(address=address, progress=name_the_new_one, is_retried=True))
        with pytest.raises(ReadOnlyError, match="may be back") as failure:
            sweep.run()
        assert is_transient(failure.value)
        assert sweep.report.keys_deleted == 6 * len(IDS)
        assert (sweep.report.complete, sweep.report.cleanup_errors) == (False, 1)


def test_a_read_only_answer_has_the_primary_looked_up_anew(sentinels: Sentinels) -> None:
    others = set(questions(sentinels))  # of tests before, which may go at any time

    def asked() -> int:
        return sum(count for id_, count in questions(sentinels).items() if id_ not in others)

    with connected(sentinels) as servers:
        client = servers.client_for(b"any")
        client.set("key", "1")
        before = asked()
        client.set("key", "2")
        assert asked() == before > 0
        # Given a primary that was demoted and keeps its clients
        with sentinels.primary().client() as direct:
            direct.replicaof("127.0.0.1", str(free_port()))
            try:
                # Then the answer is a failure that a retry gets over
                with pytest.raises(ConnectionError):
                    client.set("key", "3")
            finally:
                direct.replicaof("NO", "ONE")
        client.set("key", "4")
        assert asked() > before


def questions(sentinels: Sentinels) -> dict[str, int]:
    """How many commands the first sentinel had from each of our clients."""
    with Redis(port=sentinels.ports[0]) as client:
        ours = [other for other in client.client_list() if other["name"].startswith(CLIENT_NAME)]
        return {other["id"]: int(other["tot-cmds"]) for other in ours}


@pytest.fixture(scope="module")
def locked_sentinels() -> Iterator[Sentinels]:
    """The sentinels ask for a password, the server for another."""
    with running_sentinels("p@ss&1+") as sentinels:
        for server in sentinels.servers:
            with server.client() as client:
                client.config_set("masterauth", SERVER_PASSWORD)
                client.config_set("requirepass", SERVER_PASSWORD)
        sentinels.ask(f"SENTINEL SET {SERVICE} auth-pass {SERVER_PASSWORD}")
        yield sentinels


@pytest.mark.parametrize(
    ("parameters", "failure"),
    [
        ("?sentinel_password=p%40ss%261%2B", None),
        ("?sentinel_username=default&sentinel_password=p%40ss%261%2B", None),
        ("", r"Authentication required.*as in \?sentinel_password=password"),
        ("?sentinel_password=wrong", "username-password pair.*check sentinel_username and sentinel_password"),
    ],
)
def test_sentinels_with_a_password_of_their_own(
    locked_sentinels: Sentinels, parameters: str, failure: str | None
) -> None:
    place = f"127.0.0.1:{locked_sentinels.ports[0]}"
    url = f"redis+sentinel://:{SERVER_PASSWORD}@{place}/{SERVICE}{parameters}"
    with servers_at(parse(url)) as servers:
        if failure is None:
            servers.connect()
            assert servers.client_for(b"").ping()
            return
        # a wrong password is not tried again, and who refused it is named
        with pytest.raises(AuthenticationError, match=failure) as refusal, with_hint(parse(url)):
            servers.connect()
        assert place in str(refusal.value)
        assert not is_transient(refusal.value)
        assert "wrong" not in str(refusal.value)


def test_tls_of_the_sentinels_apart_from_that_of_the_server(
    locked_sentinels: Sentinels, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    ours = authority.sign("client")
    tls = Tls(authority.cert_file, ours.cert_file, ours.key_file)
    port = free_port()
    login = "sentinel_password=p%40ss%261%2B"
    url = f"redis+sentinel://:{SERVER_PASSWORD}@127.0.0.1:{port}/{SERVICE}?{login}"
    with tls_relay(port, locked_sentinels.ports[0], authority, authority.sign("sentinel")):
        with servers_at(parse(f"{url}&sentinel_tls=true"), tls) as servers:
            servers.connect()
            assert servers.client_for(b"").ping()
        # files of their own, beside those of a server that has another authority
        stranger = Authority(tmp_path, "stranger")
        theirs = stranger.sign("client of the server")
        other = Tls(stranger.cert_file, theirs.cert_file, theirs.key_file)
        own = f"sentinel_cert_file={ours.cert_file}&sentinel_key_file={ours.key_file}"
        with servers_at(
            parse(f"{url}&sentinel_tls=true&sentinel_ca_file={authority.cert_file}&{own}"), other
        ) as servers:
            servers.connect()
            assert servers.client_for(b"").ping()
        for some in (own, f"sentinel_ca_file={authority.cert_file}"):
            with (
                servers_at(parse(f"{url}&sentinel_tls=true&{some}"), other) as servers,
                pytest.raises(ConnectionError),
            ):
                servers.connect()
        with (
            servers_at(parse(url), tls) as servers,
            pytest.raises(ConnectionError, match="if the sentinels speak TLS, give sentinel_tls=true"),
            with_hint(parse(url)),
        ):
            servers.connect()
    # sentinels without TLS, which they are asked for
    asked = f"{url.replace(f':{port}/', f':{locked_sentinels.ports[0]}/')}&sentinel_tls=true"
    with (
        servers_at(parse(asked), tls) as servers,
        pytest.raises((ConnectionError, TimeoutError), match="speak no TLS, give sentinel_tls=false"),
        with_hint(parse(asked)),
    ):
        servers.connect()
    plain = url.replace(f":{port}/", f":{locked_sentinels.ports[0]}/").replace("redis+", "rediss+")
    # the sentinels are plain, and the server speaks no TLS
    with servers_at(parse(f"{plain}&sentinel_tls=false"), tls) as servers:
        with pytest.raises((ConnectionError, TimeoutError)) as failure:
            servers.connect()
        assert "no sentinel" not in str(failure.value)


@pytest.mark.debian
def test_sentinels_and_a_server_that_speak_tls_with_certificates_of_two_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are real: no server in a wheel speaks TLS, but Debian's does."""
    of_server, of_sentinel = Authority(tmp_path, "servers"), Authority(tmp_path, "sentinels")
    ours = [of_server.sign("client-a"), of_sentinel.sign("client-b")]
    # the sentinel is itself a client of the server, and has one file for both
    both = tmp_path / "both.pem"
    both.write_bytes(of_server.cert_file.read_bytes() + of_sentinel.cert_file.read_bytes())

    def options(authority: Authority, name: str, port: int) -> dict[str, str]:
        signed = authority.sign(name)
        return {
            "tls-port": str(port),
            "tls-ca-cert-file": str(both),
            "tls-cert-file": str(signed.cert_file),
            "tls-key-file": str(signed.key_file),
        }

    server_port, sentinel_port = free_port(), free_port()
    settings = options(of_server, "server", server_port).items()
    words = [word for name, value in settings for word in (f"--{name}", value)]
    lines = options(of_sentinel, "sentinel", sentinel_port) | {"tls-replication": "yes"}
    binary = binary_of("redis 7.0")
    with (
        running_server(*words, binary=binary) as server,
        running_sentinel(
            server_port, None, *(f"{name} {value}" for name, value in lines.items()), quorum=1, binary=binary
        ),
        server.client() as client,
    ):
        write_coordinators(client, IDS, STALE_AGE_MS)
        write_coordinators(client, ACTIVE, ACTIVE_AGE_MS)
        theirs = f"sentinel_cert_file={ours[1].cert_file}&sentinel_key_file={ours[1].key_file}"
        url = f"rediss+sentinel://127.0.0.1:{sentinel_port}/{SERVICE}?{theirs}"
        monkeypatch.setenv("COORDINATION_REDIS_CA_FILE", str(of_server.cert_file))
        monkeypatch.setenv("COORDINATION_REDIS_CERT_FILE", str(ours[0].cert_file))
        monkeypatch.setenv("COORDINATION_REDIS_KEY_FILE", str(ours[0].key_file))
        monkeypatch.setenv("COORDINATION_REDIS_URL", url)
        with pytest.raises(ConnectionError, match="sentinel_ca_file in the URL names their authority's file"):
            Sweep(options_of(Settings.read(), check_arguments())).run()
        monkeypatch.setenv("COORDINATION_REDIS_URL", f"{url}&sentinel_ca_file={of_sentinel.cert_file}")
        report = Sweep(options_of(Settings.read(), check_arguments())).run()
        assert (report.complete, report.keys_deleted) == (True, 6 * len(IDS))


def test_a_worker_whose_broker_is_named_by_sentinels(
    locked_sentinels: Sentinels, sentinels: Sentinels, tmp_path: Path
) -> None:
    primary = locked_sentinels.primary()
    with primary.client(password=SERVER_PASSWORD) as client:
        client.flushall()
    places = ";".join(
        f"sentinel://:{SERVER_PASSWORD}@127.0.0.1:{port}/{{}}" for port in locked_sentinels.ports
    )
    options = {"master_name": SERVICE, "sentinel_kwargs": {"password": locked_sentinels.password}}
    celery_settings = {
        "CELERY_BROKER_URL": places.format(*[1] * 3),
        "CELERY_RESULT_BACKEND": places.format(*[2] * 3),
        "CELERY_BROKER_TRANSPORT_OPTIONS": json.dumps(options),
        "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS": json.dumps(options),
    }
    where = f"127.0.0.1:{sentinels.ports[0]}/{SERVICE}"
    with Stack({**celery_settings, "COORDINATION_REDIS_URL": f"redis+sentinel://{where}"}, tmp_path) as stack:
        stack.start_worker()
        asked = subprocess.run(
            [sys.executable, "-c", "import cleanup_tasks as c; print(c.cleanup.delay().get(timeout=50))"],
            env=stack.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert f"'keysDeleted': {6 * len(IDS)}" in asked.stdout, asked.stderr + stack.log("worker")
        # the messages and results went to the primary
        for database in (1, 2):
            with primary.client(password=SERVER_PASSWORD, db=database) as client:
                assert client.dbsize() > 0
    with sentinels.primary().client() as client:
        assert all_keys(client) == keys_of_active()
