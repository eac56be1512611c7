"""Every accepted URL form, and one clear message for everything else."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from cleanup_tasks.celery import app
from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.servers.url import EXAMPLES, Address, Layout, parse

SECRET = "hunter2"

GOOD = {
    "redis://h": Address(hosts=(("h", 6379),)),
    "redis://h:1/15": Address(hosts=(("h", 1),), database=15),
    "redis://h/": Address(hosts=(("h", 6379),)),
    "redis://[::1]:7000": Address(hosts=(("::1", 7000),)),
    "redis://:pw@h": Address(hosts=(("h", 6379),), password="pw"),
    "redis://u:p%40%2F%3A%25@h": Address(hosts=(("h", 6379),), username="u", password="p@/:%"),
    "redis://u:a:b@c@h": Address(hosts=(("h", 6379),), username="u", password="a:b@c"),
    "rediss://h": Address(hosts=(("h", 6379),), tls=True),
    "unix:///run/redis.sock": Address(socket="/run/redis.sock"),
    "unix://u:pw@/run/redis.sock?db=2": Address(
        socket="/run/redis.sock", database=2, username="u", password="pw"
    ),
    "redis+cluster://a,b:7001": Address(Layout.CLUSTER, (("a", 6379), ("b", 7001))),
    "rediss+cluster://u:pw@a:1/": Address(Layout.CLUSTER, (("a", 1),), tls=True, username="u", password="pw"),
    "redis+sentinel://a,b:2/main": Address(Layout.SENTINEL, (("a", 26379), ("b", 2)), service="main"),
    "redis+sentinel://:pw@a/main/3": Address(
        Layout.SENTINEL, (("a", 26379),), service="main", database=3, password="pw"
    ),
    "rediss+sentinel://a/main": Address(
        Layout.SENTINEL, (("a", 26379),), tls=True, service="main", sentinel_tls=True
    ),
    "redis+sentinel://:pw@a/main?sentinel_password=a%2Bb+c%26": Address(
        Layout.SENTINEL, (("a", 26379),), service="main", password="pw", sentinel_password="a+b+c&"
    ),
    "rediss+sentinel://a/main/1?sentinel_username=u&sentinel_password=p=q&sentinel_tls=false": Address(
        Layout.SENTINEL,
        (("a", 26379),),
        tls=True,
        service="main",
        database=1,
        sentinel_username="u",
        sentinel_password="p=q",
    ),
    "redis+sentinel://a/main?sentinel_tls=true": Address(
        Layout.SENTINEL, (("a", 26379),), service="main", sentinel_tls=True
    ),
    "redis+cluster://a:1/2": Address(Layout.CLUSTER, (("a", 1),), database=2),
    "valkey://u:pw@h/1": Address(hosts=(("h", 6379),), database=1, username="u", password="pw"),
    "valkeys://h": Address(hosts=(("h", 6379),), tls=True),
    "valkey+cluster://a": Address(Layout.CLUSTER, (("a", 6379),)),
    "valkeys+cluster://a": Address(Layout.CLUSTER, (("a", 6379),), tls=True),
    "redis+sentinel://a/main?sentinel_ca_file=": Address(Layout.SENTINEL, (("a", 26379),), service="main"),
    "valkey+sentinel://a/main": Address(Layout.SENTINEL, (("a", 26379),), service="main"),
    "valkeys+sentinel://a/main": Address(
        Layout.SENTINEL, (("a", 26379),), tls=True, service="main", sentinel_tls=True
    ),
}

BAD = [
    f"http://u:{SECRET}@h",
    f"redis+nonsense://u:{SECRET}@h",
    f"rediscluster://u:{SECRET}@h",
    f"u:{SECRET}@h",
    f"redis:u:{SECRET}@h",
    f"redis://u:{SECRET}@",
    f"redis://u:{SECRET}@:6379",
    f"redis://u:{SECRET}@h:",
    f"redis://u:{SECRET}@h:0",
    f"redis://u:{SECRET}@h:65536",
    f"redis://u:{SECRET}@h:port",
    f"redis://u:{SECRET}@h:6379x",
    f"redis://u:{SECRET}@h/x",
    f"redis://u:{SECRET}@h/-1",
    f"redis://u:{SECRET}@h/1/2",
    f"redis://u:{SECRET}@h/\u0661",
    f"redis://u:{SECRET}@a,b",
    f"redis://u:{SECRET}@h?socket_timeout=1",
    f"rediss://u:{SECRET}@h?ssl_cert_reqs=none",
    f"redis://u:{SECRET}@h#x",
    f"redis://u:{SECRET}@h h",
    f"redis://u:{SECRET}@[::1",
    f"unix://u:{SECRET}@",
    f"unix://u:{SECRET}@/",
    f"unix://u:{SECRET}@/run/redis.sock?db=x",
    f"unix://u:{SECRET}@/run/redis.sock?timeout=1",
    f"redis+cluster://u:{SECRET}@a:1/1/2",
    f"redis+cluster://u:{SECRET}@a:1/x",
    f"redis+cluster://u:{SECRET}@a:1?sentinel_password=x",
    f"redis://u:{SECRET}@a:1?sentinel_password=x",
    f"redis+sentinel://a/main?{SECRET}",
    f"redis+sentinel://a/main?password={SECRET}",
    f"redis+sentinel://a/main?sentinel_password={SECRET}&sentinel_tls=yes",
    f"valkey://u:{SECRET}@h?db=1",
    f"valkeyss://u:{SECRET}@h",
    f"redis+cluster://u:{SECRET}@a:1,,b:2",
    f"redis+cluster://u:{SECRET}@a:1,b:0",
    f"redis+cluster://u:{SECRET}@",
    f"redis+sentinel://u:{SECRET}@a:1",
    f"redis+sentinel://u:{SECRET}@a:1/",
    f"redis+sentinel://u:{SECRET}@a:1/main/x",
    f"redis+sentinel://u:{SECRET}@a:1/main/1/2",
    f"redis+sentinel://u:{SECRET}@a:70000/main",
]


@pytest.mark.parametrize(("url", "expected"), GOOD.items(), ids=list(GOOD))
def test_accepted(url: str, expected: Address) -> None:
    assert parse(url) == expected
    Settings.read(coordination_redis_url=SecretStr(url))


def test_files_of_the_sentinels() -> None:
    files = "sentinel_ca_file=/etc/ca.pem&sentinel_cert_file=/etc/a%26b.pem&sentinel_key_file=b.key"
    address = parse(f"rediss+sentinel://a/main?{files}")
    assert address.sentinel_files == Tls(Path("/etc/ca.pem"), Path("/etc/a&b.pem"), Path("b.key"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (f"sentinel_password=abc&{SECRET}=x", "an unknown parameter; known are"),
        ("sentinel_password=abc&hunter=x", "an unknown parameter; known are"),
        (
            f"{SECRET}=x&sentinel_pasword=y",
            "unknown parameter sentinel_pasword; did you mean sentinel_password?",
        ),
        ("sentinel_password=a&sentinel_tls=true&sentinel_password=a", "sentinel_password is given twice"),
        ("sentinel_ca_file=/c", "sentinel_ca_file is for TLS to the sentinels, and needs sentinel_tls=true"),
        ("sentinel_cert_file=/c&sentinel_tls=false", "sentinel_cert_file is for TLS to the sentinels"),
        ("sentinel_key_file=/c", "sentinel_key_file is for TLS to the sentinels"),
    ],
)
def test_refused_parameters(parameters: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as reason:
        parse(f"redis+sentinel://a/main?{parameters}")
    assert str(reason.value).startswith(message)
    assert ("write & in a password as %26" in str(reason.value)) == message.startswith("an unknown")
    assert "hunter" not in str(reason.value)


@pytest.mark.parametrize("url", BAD)
def test_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_URL", url)
    with pytest.raises(InvalidSettings) as refusal:
        Settings.read()
    with pytest.raises(ValueError, match=r".") as reason:
        parse(url)
    assert SECRET not in str(reason.value)
    # The message names the variable, what is wrong and one example, and never shows the URL.
    named = "invalid settings: COORDINATION_REDIS_URL: the URL of the coordination Redis"
    assert str(refusal.value) == f"{named} ({reason.value})"
    assert [example for example in EXAMPLES.values() if example in str(reason.value)] != []
    assert len(str(reason.value)) < 250
    assert SECRET not in repr(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("h:6379", "it must begin with redis://"),
        (
            "redis://h:70000",
            "the port must be a number from 1 to 65535; an example: redis://:password@host:6379/0",
        ),
        ("redis://h/x", "the database must be a number"),
        ("redis://a,b", "it names more than one host, and only a cluster or sentinels have"),
        ("redis+cluster://a,,b", "a host is missing or malformed; an example: redis+cluster://"),
        ("redis+sentinel://a", "the service name is missing"),
        (
            "redis+sentinel://a/main?x=1",
            "an unknown parameter; known are sentinel_username, sentinel_password, sentinel_tls",
        ),
        ("redis://h?socket_timeout=1", "an unknown parameter; this form of URL takes none"),
        ("redis://u:a/b@h", "must be written as %XX"),
        ("unix://redis.sock", "a socket must be written as unix:///path"),
    ],
)
def test_it_says_what_is_wrong(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse(url)


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster", "Redis+Cluster", "redis+sentinel"])
def test_celery_can_not_use_a_cluster(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"{scheme}://u:{SECRET}@h:1/main")
    with pytest.raises(InvalidSettings) as refusal:
        CelerySettings.read()
    message = str(refusal.value)
    assert message.startswith(f"invalid settings: {name}: ")
    assert "can't use a Redis Cluster" in message
    assert "sentinel://" in message
    assert SECRET not in message


BACKENDS = ["rpc", "disabled://", "cache+memory://", "db+sqlite:///x", "file:///x", "some.module:Class"]
BROKERS = [
    "memory://",
    "filesystem://",
    "sqla+sqlite:///x",
    "Redis://h",
    "amqp://h;amqp://i",
    "pack.mod:Class://",
]


@pytest.mark.parametrize(
    ("name", "value", "is_known"),
    [
        *(("CELERY_RESULT_BACKEND", value, True) for value in ["rpc://", "redis+socket:///s", *BACKENDS]),
        *(("CELERY_BROKER_URL", value, True) for value in ["sentinel://h;sentinel://i", *BROKERS]),
        *(
            (name, value, False)
            for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
            for value in (f"{SECRET}@h:6379/1", "h:6379", "localhost", f"reds://{SECRET}@h", "http://h")
        ),
        ("CELERY_BROKER_URL", "rpc", False),
    ],
)
def test_celery_knows_the_url(name: str, value: str, is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    if name == "CELERY_BROKER_URL" and value.startswith("sentinel"):
        monkeypatch.setenv("CELERY_BROKER_TRANSPORT_OPTIONS", '{"master_name": "m"}')
    if is_known:
        settings = CelerySettings.read()
        assert value in (settings.broker_url, settings.result_backend)
        return
    with pytest.raises(InvalidSettings) as refusal:
        CelerySettings.read()
    message = str(refusal.value)
    assert message.startswith(f"invalid settings: {name}: a URL that Celery knows")
    assert ("(it has no ://)" in message) == ("://" not in value)
    assert SECRET not in message


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATION_REDIS_URL", f"redis+sentinel://u:{SECRET}@h/main")
    settings = Settings.read()
    assert SECRET not in repr(settings)
    assert SECRET not in repr(parse(settings.coordination_url))
    assert SECRET not in repr(app.conf.humanize(with_defaults=True, censored=False))
