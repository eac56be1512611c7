"""Settings and arguments: what is accepted, and one message that names all that is not."""

import os
import subprocess
import sys

import pytest

from cleanup_tasks.configuration.arguments import Arguments, check_arguments, options_of
from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.environment import Environment, InvalidSettings
from cleanup_tasks.configuration.settings import BeatSettings, IntervalSettings, MetricsSettings, Settings
from cleanup_tasks.reporting.report import PreviousAttempts
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    monkeypatch.delenv("CLEANUP_LOG_FILE")
    settings = Settings.read()
    assert settings.coordination_url == "redis://localhost:6379/0"
    assert settings.cleanup_stale_threshold_seconds == 600
    assert settings.cleanup_interval_seconds == 300
    assert settings.cleanup_max_reported_ids == 100
    assert str(settings.log_path).endswith("/.claude-flow/logs/blocking-cleanup.log")


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"REDIS_HOST": "db", "REDIS_PORT": "7000", "REDIS_DB": "3"}, "redis://db:7000/3"),
        ({"REDIS_PASSWORD": "p@ss/word:1"}, "redis://:p%40ss%2Fword%3A1@localhost:6379/0"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
        ({"REDIS_PASSWORD": "", "REDIS_PORT": ""}, "redis://localhost:6379/0"),
        ({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.96.0.5:7000"}, "redis://redis:7000/0"),
        ({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://[fd00::5]:7000"}, "redis://redis:7000/0"),
        ({"COORDINATION_REDIS_URL": "rediss://u:p@h:1/2", "REDIS_HOST": "no"}, "rediss://u:p@h:1/2"),
        ({"COORDINATION_REDIS_URL": "unix:///run/redis.sock?db=2"}, "unix:///run/redis.sock?db=2"),
    ],
)
def test_where_the_coordination_redis_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str
) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.read().coordination_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_HOST", "redis://:secret@host"),
        ("REDIS_HOST", "host:6379"),
        ("REDIS_HOST", "[::1]"),
        ("REDIS_PORT", "abc"),
        ("REDIS_PORT", "0"),
        ("REDIS_PORT", "65536"),
        ("REDIS_PORT", "tcp://10.96.0.5:0"),
        ("REDIS_PORT", "tcp://10.96.0.5"),
        ("REDIS_PORT", "tcp://:secret@host:6379"),
        ("REDIS_PORT", "redis://host:6379"),
        ("REDIS_DB", "-1"),
        ("COORDINATION_REDIS_URL", "ftp://secret@host"),
        ("COORDINATION_REDIS_URL", "redis://:secret@"),
        ("COORDINATION_REDIS_URL", "redis://:secret@host:99999"),
        ("COORDINATION_REDIS_URL", "redis://:secret@host/first"),
        ("COORDINATION_REDIS_URL", "secret"),
        ("COORDINATION_REDIS_URL", "unix://"),
        ("CLEANUP_STALE_THRESHOLD_SECONDS", "-1"),
        ("CLEANUP_STALE_THRESHOLD_SECONDS", "1.5"),
        ("CLEANUP_STALE_THRESHOLD_SECONDS", "ten"),
        ("CLEANUP_INTERVAL_SECONDS", "0"),
        ("CLEANUP_MAX_REPORTED_IDS", "-1"),
        ("CLEANUP_ORPHANS", "kill"),
        ("CLEANUP_HOLD_PERCENT", "101"),
        ("CLEANUP_HOLD_PERCENT", "-1"),
        ("CLEANUP_RESTART_GRACE_SECONDS", "-1"),
        ("CLEANUP_METRICS_PORT", "0"),
        ("CLEANUP_METRICS_PORT", "tcp://:secret@host:9808"),
        ("CELERY_BROKER_URL", "redis+cluster://:secret@host"),
        ("CELERY_TASK_DEFAULT_QUEUE_TYPE", "stream"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (model,) = (
        use for use in (Settings, MetricsSettings, CelerySettings) if name.lower() in use.model_fields
    )
    if name.startswith("REDIS_"):
        monkeypatch.delenv("COORDINATION_REDIS_URL")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refusal:
        model.read()
    accepted = model.model_fields[name.lower()].description
    assert f"{name}: {accepted}" in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


#: Values of somebody else's variables: what other software, Docker's links and Kubernetes put there.
STRAY = {
    "REDIS_HOST": "redis://cache:6379/0",
    "REDIS_PORT": "tcp://10.96.0.5:6379/0",
    "REDIS_DB": "sessions",
    "CLEANUP_METRICS_PORT": "tcp://10.96.0.6:9808",
}


def test_a_stray_variable_does_no_harm_where_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STRAY.items():
        monkeypatch.setenv(name, value)
    assert MetricsSettings.read().cleanup_metrics_port is None
    assert Settings.read().coordination_url == "redis://127.0.0.1:1/0"
    # where nothing else says where the Redis is, they count
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    with pytest.raises(InvalidSettings, match=r"REDIS_HOST: .*REDIS_PORT: .*REDIS_DB: "):
        Settings.read()


#: Who reads which variable; a wrong one of another use stops nobody.
USES: dict[type[Environment], str] = {
    Settings: "CLEANUP_STALE_THRESHOLD_SECONDS",
    IntervalSettings: "CLEANUP_INTERVAL_SECONDS",
    MetricsSettings: "CLEANUP_METRICS_PORT",
    CelerySettings: "CELERY_BROKER_URL",
}


@pytest.mark.parametrize("wrong", USES)
def test_only_what_is_used_is_checked(monkeypatch: pytest.MonkeyPatch, wrong: type[Environment]) -> None:
    monkeypatch.setenv(USES[wrong], "redis+cluster://x")
    uses: list[type[Environment]] = [*USES, BeatSettings]
    for use in uses:
        if issubclass(use, wrong):
            with pytest.raises(InvalidSettings, match=USES[wrong]):
                use.read()
        else:
            use.read()


def test_all_faults_are_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    wrong = ["REDIS_PORT", "REDIS_DB", "CLEANUP_INTERVAL_SECONDS", "CLEANUP_ORPHANS"]
    for name in wrong:
        monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidSettings) as refusal:
        Settings.read()
    assert all(name in str(refusal.value) for name in wrong)


def test_a_worker_with_wrong_settings_says_so_and_ends() -> None:
    environment = os.environ | {"CLEANUP_INTERVAL_SECONDS": "soon"}
    command = [sys.executable, "-m", "celery", "-A", "cleanup_tasks", "worker"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert "CLEANUP_INTERVAL_SECONDS: a whole number of seconds" in last


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_PASSWORD", "COORDINATION_REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "redis://:secret@h")
    assert "secret" not in repr(Settings.read()) + repr(CelerySettings.read())


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="nothing was touched") as refusal:
        check_arguments(dry_run="no", stale_threshold_seconds=-1, dryrun=True)
    message = str(refusal.value)
    assert "dry_run: true or false (not 'no')" in message
    assert "stale_threshold_seconds: a whole number of seconds" in message
    assert "dryrun: not known; did you mean dry_run?" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("dry_run", value) for value in (None, 0, 1, "true")),
        *(("stale_threshold_seconds", value) for value in (-1, 1.5, "600", True, 1_000_000_000)),
        *(("orphans", value) for value in ("", "all", True)),
        *(("force", value) for value in (None, 1, "yes")),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_accepted(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"invalid arguments: {name}: ") as refusal:
        check_arguments(**{name: value})
    accepted = Arguments.model_fields[name].description
    assert str(accepted or "a whole number of seconds, 0 to 999999999") in str(refusal.value)


def test_right_arguments_are_taken() -> None:
    assert check_arguments() == Arguments()
    named = {
        "dry_run": True,
        "stale_threshold_seconds": 0,
        "orphans": "reap",
        "force": True,
        "target": "default",
    }
    assert check_arguments(**named).model_dump() == named


def test_an_argument_wins_over_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANUP_STALE_THRESHOLD_SECONDS", "700")
    monkeypatch.setenv("CLEANUP_ORPHANS", "off")
    settings = Settings.read()
    by_setting = options_of(settings, check_arguments())
    assert (by_setting.threshold_s, by_setting.orphans, by_setting.dry_run) == (700, "off", False)
    # a threshold of 0 is a threshold
    asked = check_arguments(stale_threshold_seconds=0, orphans="reap", dry_run=True)
    by_argument = options_of(settings, asked)
    assert (by_argument.threshold_s, by_argument.orphans, by_argument.dry_run) == (0, "reap", True)


def test_the_inputs_of_a_sweep_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "COORDINATION_REDIS_URL": "redis://u:p@h:7000/2",
        "CLEANUP_HOLD_PERCENT": "50",
        "CLEANUP_INTERVAL_SECONDS": "60",
        "CLEANUP_MAX_REPORTED_IDS": "7",
        "CLEANUP_RESTART_GRACE_SECONDS": "5",
        "CLEANUP_LOG_FILE": "/tmp/x.log",  # noqa: S108, nothing is written
        "CLEANUP_LOG_FORMAT": "json",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    previous = PreviousAttempts(reaped=3)
    options = options_of(settings, Arguments(), engine="python", owner="me", previous=previous)
    assert options == Options(
        address=parse("redis://u:p@h:7000/2"),
        tls=settings.tls,
        orphans="report",
        hold_percent=50,
        restart_grace_s=5,
        interval_s=60,
        max_named=7,
        log_path=settings.log_path,
        log_format="json",
        engine="python",
        owner="me",
        previous=previous,
    )
    # what the caller says is worth more, and None names all
    assert options_of(settings, Arguments(), max_named=None).max_named is None
