"""Targets by file and by environment: what is accepted, and one message for all that is not."""

import itertools
from pathlib import Path

import pytest
from redis import CredentialProvider

from cleanup_tasks.configuration import targets
from cleanup_tasks.configuration.arguments import check_arguments, options_of
from cleanup_tasks.configuration.environment import InvalidSettings
from cleanup_tasks.configuration.misspelt import unknown_variables
from cleanup_tasks.configuration.settings import Settings
from tests.support.tls import Authority

URL = "COORDINATION_REDIS_URL"


@pytest.fixture(autouse=True)
def _no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL)


def configure(
    monkeypatch: pytest.MonkeyPatch, folder: Path, text: str | None, environment: dict[str, str]
) -> None:
    """A file with this text, if any, and these variables."""
    if text is not None:
        path = folder / "cleanup.toml"
        path.write_text(text)
        monkeypatch.setenv("CLEANUP_CONFIG", str(path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def all_settings() -> dict[str, Settings]:
    return targets.settings_of(*targets.names())


EU = '[targets.eu-1]\nurl = "redis://eu:7000/2"\n'
US = '[targets.us]\nurl = "redis+cluster://us"\n'


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, {"default": "redis://localhost:6379/0"}),
        (None, {"REDIS_HOST": "db"}, {"default": "redis://db:6379/0"}),
        ("", {URL: "redis://a"}, {"default": "redis://a"}),
        (EU, {}, {"eu-1": "redis://eu:7000/2"}),
        (EU, {"REDIS_HOST": "not used: here"}, {"eu-1": "redis://eu:7000/2"}),
        (EU + US, {}, {"eu-1": "redis://eu:7000/2", "us": "redis+cluster://us"}),
        (EU, {URL: "redis://a"}, {"default": "redis://a", "eu-1": "redis://eu:7000/2"}),
        ("[targets.default]\norphans = 'off'", {"REDIS_HOST": "db"}, {"default": "redis://db:6379/0"}),
        (None, {f"{URL}__EU_1": "redis://a", f"{URL}__US": ""}, {"eu-1": "redis://a"}),
        # a variable wins over the file, and may bring what the file leaves out
        (EU, {f"{URL}__EU_1": "redis://secret"}, {"eu-1": "redis://secret"}),
        ("[targets.eu]\norphans = 'reap'", {f"{URL}__EU": "redis://a"}, {"eu": "redis://a"}),
    ],
)
def test_which_targets_there_are(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    environment: dict[str, str],
    expected: dict[str, str],
) -> None:
    configure(monkeypatch, tmp_path, text, environment)
    assert {name: own.coordination_url for name, own in all_settings().items()} == expected
    assert targets.names() == tuple(targets.intervals()) == tuple(expected)


def test_what_a_target_has_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pem = Authority(tmp_path).cert_file
    text = f"""
        [targets.eu-1]
        url = "rediss://eu"
        ca_file = "{pem}"
        verify = false
        stale_threshold_seconds = 700
        orphans = "reap"
        interval_seconds = 60
        [targets.us]
        url = "rediss://us"
    """
    environment = {
        "CLEANUP_STALE_THRESHOLD_SECONDS": "900",
        "CLEANUP_INTERVAL_SECONDS__US": "30",
        "COORDINATION_REDIS_URL": "rediss://default",
        "COORDINATION_REDIS_VERIFY": "false",
        "COORDINATION_REDIS_CA_FILE": str(pem),
    }
    configure(monkeypatch, tmp_path, text, environment)
    default, eu, us = (options_of(own, check_arguments(target=name)) for name, own in all_settings().items())
    assert (eu.target, eu.tls.verify, eu.tls.ca_file) == ("eu-1", False, pem)
    assert (eu.threshold_s, eu.orphans, eu.interval_s) == (700, "reap", 60)
    # what it does not say is as for all, but for what belongs to the place of another
    assert (us.target, us.threshold_s, us.orphans, us.interval_s) == ("us", 900, "report", 30)
    assert (us.tls.verify, us.tls.ca_file) == (True, None)
    assert (default.target, default.tls.verify, default.tls.ca_file) == ("default", False, pem)
    assert (default.threshold_s, default.interval_s) == (900, 300)
    assert targets.intervals() == {"default": 300, "eu-1": 60, "us": 30}


def test_a_url_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("redis://:p@eu:7000\n")
    text = f"[targets.eu]\nurl_file = '{secret}'"
    configure(monkeypatch, tmp_path, text, {f"{URL}_FILE__US": str(secret)})
    found = all_settings()
    assert {name: own.coordination_url for name, own in found.items()} == dict.fromkeys(
        ("eu", "us"), "redis://:p@eu:7000"
    )


def test_nobody_shares_a_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What says how to log in to the one without a name is never sent to another."""
    provider = f"{__name__}:Tokens"
    monkeypatch.setenv("COORDINATION_REDIS_CREDENTIAL_PROVIDER", provider)
    monkeypatch.setenv("REDIS_HOST", "db")
    configure(monkeypatch, tmp_path, EU + "[targets.default]", {})
    default, eu = (own.address for own in all_settings().values())
    assert isinstance(default.credentials, Tokens)
    assert eu.credentials is None


class Tokens(CredentialProvider):
    """A provider of the user's."""

    def get_credentials(self) -> tuple[str]:
        """A token."""
        return ("token",)


#: Text of the file, variables, and what the message says.
WRONG: list[tuple[str | None, dict[str, str], str]] = [
    ("targets = 1", {}, "targets: tables [targets.NAME]"),
    ("[targets]\neu = 'redis://:secret@eu'", {}, "targets: tables [targets.NAME]"),
    ("[targets.eu-1", {}, "CLEANUP_CONFIG: "),
    ("[target.eu]\nurl = 'redis://eu'", {}, "target: not known; did you mean targets?"),
    ("[targets.EU]\nurl = 'redis://eu'", {}, f"target 'EU': {targets.NAMES}"),
    ("[targets.'redis://:secret@eu']", {}, f"target 'eu': {targets.NAMES}"),
    (None, {f"{URL}__{'N' * 41}": "redis://eu"}, targets.NAMES),
    ("[targets.eu]\norphans = 'off'", {}, "target eu: it needs a url"),
    ("[targets.eu]\nurl = ''", {}, "target eu: it needs a url"),
    (None, {"CLEANUP_ORPHANS__EU": "off", URL: "redis://eu"}, "target eu: it needs a url"),
    (EU + "ulr = ''", {}, "targets.eu-1.ulr: not known; did you mean url?"),
    (EU + "log_file = ''", {}, "targets.eu-1.log_file: not known"),
    (EU + "stale_threshold_seconds = true", {}, "targets.eu-1.stale_threshold_seconds: a whole number"),
    (EU + "stale_threshold_seconds = 1.5", {}, "targets.eu-1.stale_threshold_seconds: a whole number"),
    (EU + "interval_seconds = 0", {}, "targets.eu-1.interval_seconds: a whole number"),
    (EU + "orphans = ['reap']", {}, "targets.eu-1.orphans: off, report or reap"),
    (EU + "ca_file = '/nowhere'", {}, "targets.eu-1.ca_file: the path of a PEM file"),
    ("[targets.eu]\nurl = 'http://:secret@eu'", {}, "targets.eu.url: the URL of"),
    (None, {f"{URL}__EU": "redis://:secret@"}, f"{URL}__EU: the URL of"),
    (EU, {"CLEANUP_ORPHANS__EU_1": "kill"}, "CLEANUP_ORPHANS__EU_1: off, report or reap (not 'kill')"),
    (EU + US, {"CLEANUP_ORPHANS": "kill"}, "settings: CLEANUP_ORPHANS: off, report or reap (not 'kill')"),
    (EU, {"CLEANUP_LOG_FORMAT": "xml"}, "CLEANUP_LOG_FORMAT: "),
    (EU, {f"{URL}__": "redis://eu"}, f"target '': {targets.NAMES}"),
    (None, {f"{URL}__EU_1": "redis://a", f"{URL}__EU-1": "redis://secret"}, f"{URL}__EU_1 is the same; "),
    (None, {f"{URL}__EU": "redis://a", f"{URL.lower()}__eu": "redis://a"}, f"{URL}__EU is the same; "),
]


@pytest.mark.parametrize(("text", "environment", "message"), WRONG)
def test_a_fault_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    environment: dict[str, str],
    message: str,
) -> None:
    configure(monkeypatch, tmp_path, text, environment)
    with pytest.raises(InvalidSettings) as refusal:
        all_settings()
    assert message in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEANUP_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(InvalidSettings, match=r"CLEANUP_CONFIG: the path of a TOML file .*missing\.toml"):
        targets.names()


def test_all_faults_of_all_targets_are_in_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = [text for text, environment, _ in WRONG if text and text.startswith(EU) and not environment]
    file = "\n".join(f"{text.replace('eu-1', f'eu-{n}')}" for n, text in enumerate(texts))
    configure(monkeypatch, tmp_path, file, {f"{URL}__US": "secret", "CLEANUP_ORPHANS": "kill"})
    with pytest.raises(InvalidSettings) as refusal:
        all_settings()
    assert all(f"targets.eu-{n}." in str(refusal.value) for n in range(len(texts)))
    assert f"{URL}__US: " in str(refusal.value)
    assert str(refusal.value).count("CLEANUP_ORPHANS: ") == 1


def test_a_fault_of_one_target_stops_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = "\n".join(
        f"[targets.bad-{number}]\n{text}"
        for number, text in enumerate(
            (
                "",
                "url = 'redis://b'\nulr = 1",
                "url_file = '/nowhere'",
                "url = 'redis://b'\ninterval_seconds = 0",
            )
        )
    )
    same = {f"{URL}__BAD_4": "redis://b", f"{URL}__BAD-4": "redis://b"}
    configure(monkeypatch, tmp_path, f"{EU}interval_seconds = 60\n{bad}", same)
    wrong = ["bad-0", "bad-1", "bad-2", "bad-3", "bad-4"]
    assert targets.names() == (*wrong, "eu-1")
    assert targets.settings_of("eu-1")["eu-1"].coordination_url == "redis://eu:7000/2"
    for name in wrong:
        assert check_arguments(target=name).target == name
        with pytest.raises(InvalidSettings) as refusal:
            targets.settings_of(name)
        message = str(refusal.value).lower().replace("_", "-")
        assert [other for other in wrong if other in message] == [name]
    with pytest.raises(InvalidSettings, match=r"bad-0.*bad-1.*bad-2.*bad-3.*BAD"):
        all_settings()
    # beat asks for all of them, and each says what is wrong
    assert targets.intervals() == {**dict.fromkeys(wrong, 300), "eu-1": 60}


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        (EU + "[target.us]", {}, "target: not known"),
        (EU + "[targets.US]", {}, targets.NAMES),
        (EU, {"CLEANUP_ORPHANS__": "off"}, targets.NAMES),
        (EU, {"CLEANUP_ORPHANS": "kill"}, "CLEANUP_ORPHANS: "),
    ],
)
def test_what_is_wrong_for_all_stops_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, environment: dict[str, str], message: str
) -> None:
    configure(monkeypatch, tmp_path, text, environment)
    with pytest.raises(InvalidSettings, match=message):
        targets.settings_of("eu-1")


def test_who_only_sends_needs_no_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "[targets.eu-1]\nca_file = '/not/mounted/here'\ninterval_seconds = 60"
    configure(monkeypatch, tmp_path, text, {"CLEANUP_STALE_THRESHOLD_SECONDS": "soon"})
    assert targets.intervals() == {"eu-1": 60}
    assert check_arguments(target="eu-1").target == "eu-1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eu", "target: the name of a configured target (no target is called 'eu'; did you mean eu-1?)"),
        ("asia", "(no target is called 'asia'; known are eu-1, us)"),
        (None, "(no target is called 'default'; known are eu-1, us)"),
        ("", "(no target is called 'default'; known are eu-1, us)"),
        (1, "target: the name of a configured target (not 1)"),
        ("redis://:secret@eu", f"({targets.NAMES}; known are eu-1, us)"),
        ("x" * 41, f"({targets.NAMES}; known are eu-1, us)"),
    ],
)
def test_an_unknown_target_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: object, message: str
) -> None:
    configure(monkeypatch, tmp_path, EU + US, {})
    with pytest.raises(ValueError, match="nothing was touched") as refusal:
        check_arguments(target=name)
    assert message in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_unknown_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [URL, "CLEANUP_ORPHANS", "CLEANUP_METRICS_PORT", "CLEANUP_BEAT_FILE", f"{URL}__EU"]
    of_services = ["CLEANUP_METRICS_SERVICE_HOST", "CLEANUP_METRICS_PORT_9808_TCP_ADDR", "CLEANUP_PORT"]
    for name in itertools.chain(known, of_services):
        monkeypatch.setenv(name, "x")
    assert unknown_variables() == []
    for name in ("CLEANUP_STALE_TRESHOLD_SECONDS", "COORDINATION_REDIS_ULR", "CLEANUP_LOG_FILE__EU"):
        monkeypatch.setenv(name, "x")
    log_file, threshold, url = unknown_variables()
    assert log_file == "CLEANUP_LOG_FILE__EU is ignored"
    expected = "CLEANUP_STALE_TRESHOLD_SECONDS is ignored; did you mean CLEANUP_STALE_THRESHOLD_SECONDS?"
    assert threshold == expected
    assert url == f"COORDINATION_REDIS_ULR is ignored; did you mean {URL}?"
