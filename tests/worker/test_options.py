"""The command's options: what is accepted, what is refused before anything is touched, and the help."""

import json
import re

import pytest
from redis import Redis

from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server
from tests.support.command import run_command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--stale-threshold", "99999999999999"],
            "'--stale-threshold': '99999999999999' is too long; at most 999999999 seconds",
        ),
        (
            ["--stale-threshold", "-1"],
            "'--stale-threshold': '-1' is not a duration; write for example 600, 90s",
        ),
        (
            ["--stale-threshold", "1.5"],
            r"'--stale-threshold': '1\.5' is not a duration; write for example 600, 90s",
        ),
        (
            ["--stale-threshold", "soon"],
            "'--stale-threshold': 'soon' is not a duration; write for example 600, 90s",
        ),
        (["--stale-threshold", "99999d"], "'--stale-threshold': '99999d' is too long"),
        (["--stale-thresold", "600"], r"Did you mean '?--stale-threshold'?\?"),
        (["--orphans", "eat"], "'--orphans': 'eat' is not one of 'off', 'report', 'reap'"),
        (["--dryrun"], "--dryrun"),
        (["--redis-url", "http://localhost"], "'--redis-url': it must begin with "),
        (
            ["--redis-url", "redis://h:70000"],
            "'--redis-url': the port must be a number from 1 to 65535; an",
        ),
        (["--redis-url", ""], "'--redis-url': "),
        (["600", "1"], "600"),
        (["--explain", "--metrics-file", "x.prom"], "--explain sweeps nothing"),
    ],
)
def test_wrong_options_touch_nothing(
    server: Server, client: Redis, arguments: list[str], message: str
) -> None:
    write_acceptance_data(client, 10, 1)
    ended = run_command(server.url, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.search(rf"^Error: .*{message}", ended.stderr, re.MULTILINE)
    assert client.dbsize() == 10 * KEYS_EACH


def test_threshold_and_url_win_over_the_environment(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 5)
    ended = run_command(
        "redis://127.0.0.1:1",
        "--redis-url",
        server.url,
        "--stale-threshold=30",
        "--json",
        CLEANUP_STALE_THRESHOLD_SECONDS="900",
    )
    assert json.loads(ended.stdout)["staleCoordinatorsFound"] == 10


def test_the_help_shows_the_settings_in_force(server: Server) -> None:
    shown = run_command(
        "redis://me:pa55@example.com:7000/3",
        "--help",
        CLEANUP_STALE_THRESHOLD_SECONDS="5400",
        CLEANUP_ORPHANS="reap",
        CLEANUP_LOG_FORMAT="json",
        REDIS_PASSWORD="pa55",
    ).stdout
    text = " ".join(shown.split())
    for expected in (
        "[env: CLEANUP_STALE_THRESHOLD_SECONDS; now: 1 h 30 min]",
        "[env: CLEANUP_ORPHANS; now: reap]",
        "[env: COORDINATION_REDIS_URL; now: example.com:7000, database 3]",
        "CLEANUP_LOG_FORMAT the form of the summary line: keyvalue or json [now: json]",
        "129, 130, 143 stopped by SIGHUP, Ctrl-C or SIGTERM",
    ):
        assert expected in text
    assert "pa55" not in text


def test_the_help_comes_also_where_the_environment_is_wrong() -> None:
    shown = run_command("http://nobody", "--help", CLEANUP_ORPHANS="eat")
    assert (shown.returncode, "now: report" in " ".join(shown.stdout.split())) == (0, True)


def test_durations_as_people_write_them(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 5)
    for written, stale in (("10m", 5), ("12min", 0), ("30s", 10), ("1h30m", 0), ("720", 0)):
        ended = run_command(server.url, "--dry-run", "--json", "--stale-threshold", written)
        assert json.loads(ended.stdout)["staleCoordinatorsFound"] == stale
