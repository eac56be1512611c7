"""--explain: who would go and why, and nothing is touched."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import Server, free_port, stop
from tests.support.command import run_command
from tests.support.sweeping import digest, write_heartbeat
from tests.support.terminal import COLUMNS, run_on_terminal


@pytest.fixture
def fleet(client: Redis) -> Redis:
    """One stale and one active coordinator that share a record, an orphan, and one that nobody can read."""
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    write_coordinators(client, [b"active"], ACTIVE_AGE_MS)
    client.set(keys.IDEMPOTENCY + b"stale:active:done:1:%d" % server_time_ms(client), "1")
    client.set(keys.signal(b"ghost"), "1")
    write_heartbeat(client, b"odd", "unreadable")
    return client


def explained(server: Server, *arguments: str) -> dict[str, dict[str, Any]]:
    """The JSON lines, by coordinator."""
    ended = run_command(server.url, "--explain", *arguments, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    return {line["coordinator"]: line for line in map(json.loads, ended.stdout.splitlines())}


def test_json_lines(server: Server, fleet: Redis) -> None:
    before = digest(fleet)
    found = explained(server)
    assert digest(fleet) == before
    assert {id_: (line["verdict"], line["goes"]) for id_, line in found.items()} == {
        "stale": ("stale", True),
        "ghost": ("orphaned", False),
        "odd": ("unreadable", False),
        "active": ("active", False),
    }
    assert 660 <= found["stale"]["heartbeatAgeSeconds"] < 720
    assert 660 <= found["stale"]["activityAgeSeconds"] < 720
    assert 60 <= found["active"]["heartbeatAgeSeconds"] < 120
    assert found["odd"]["heartbeatAgeSeconds"] is None
    assert found["odd"]["reason"] == "it is not JSON"
    families = [key["family"] for key in found["stale"]["keys"] if key["goes"]]
    assert sorted(families) == ["ack", "ack", "activity", "heartbeat", "idempotency", "signal"]
    assert found["stale"]["keys"][-1]["key"] == "blocking:heartbeat:stale"  # it goes last
    assert found["active"]["keys"][-1]["keptBy"] == {"active": "active"}
    (kept,) = (key for key in found["stale"]["keys"] if not key["goes"])
    assert (kept["sharedWith"], kept["keptBy"]) == (["active"], {"active": "active"})


def test_a_table_on_a_terminal(server: Server, fleet: Redis) -> None:
    shown = run_on_terminal(server.url, "--explain")
    assert shown.process.returncode == 0
    assert max(map(len, shown.screen)) <= COLUMNS
    text = re.sub(r"\b11 min( \d+ s)?", "AGE", " ".join(" ".join(shown.screen).split()))
    assert text.startswith(f"Redis 127.0.0.1:{server.port}, database 0 Coordinator Heartbeat Activity ")
    assert " Verdict What a sweep does stale " in text
    for row in (
        "stale AGE AGE stale delete 2 acks, 1 record, 1 signal, 1 activity, 1 heartbeat "
        "keep 1 record, also owned by active (active)",
        "ghost - - orphaned no heartbeat; --orphans reap deletes its keys keep 1 signal",
        "odd - - unreadable it is not JSON keep 1 heartbeat",
        "1 stale, 1 orphaned, 1 unreadable, 1 active",
    ):
        assert row in text
    assert text.endswith("Active coordinators are not shown. --verbose shows all, --explain ID shows one.")
    everybody = run_on_terminal(server.url, "--explain", "--verbose").screen
    assert any(line.startswith("active ") for line in everybody)


def test_ages_have_two_units(server: Server, client: Redis) -> None:
    """With one, somebody who is silent for longer than 90 minutes would seem to be so for one hour."""
    write_coordinators(client, [b"stale"], 118 * 60_000)
    screen = run_on_terminal(server.url, "--explain", "--stale-threshold", "90m").screen
    (line,) = (line for line in screen if line.startswith("stale "))
    assert line.split()[1:9] == 2 * ["1", "h", "58", "min"]


def test_one_coordinator_with_its_keys(server: Server, fleet: Redis) -> None:
    shown = [" ".join(line.split()) for line in run_on_terminal(server.url, "--explain", "stale").screen]
    for line in (
        "Coordinator stale",
        "Verdict stale: no sign of life for more than 10 min",
        "delete blocking:signal:stale",
        "delete blocking:heartbeat:stale",
    ):
        assert line in shown
    assert "(also owned by active (active))" in " ".join(shown)
    assert not any("ghost" in line for line in shown)


def test_the_other_owners_of_a_key_that_goes(server: Server, client: Redis) -> None:
    write_coordinators(client, [b"one", b"two"], STALE_AGE_MS)
    client.set(keys.IDEMPOTENCY + b"one:two:done:1:%d" % server_time_ms(client), "1")
    screen = " ".join(" ".join(run_on_terminal(server.url, "--explain", "one").screen).split())
    assert "(also owned by two (stale))" in screen


def test_an_orphan_and_its_sighting(server: Server, fleet: Redis) -> None:
    now_ms = server_time_ms(fleet)
    reap = ("ghost", "--orphans", "reap")
    first = explained(server, *reap)["ghost"]
    assert (first["goes"], first["sightedAgeSeconds"], first["dueInSeconds"]) == (False, None, None)
    assert first["reason"].startswith("no heartbeat, not noted yet")
    fleet.hset(keys.SIGHTINGS, "ghost", now_ms - 300_000)
    waiting = explained(server, *reap)["ghost"]
    assert waiting["goes"] is False
    assert 300 <= waiting["sightedAgeSeconds"] < 330
    assert waiting["reason"].startswith("no heartbeat, due in ")
    fleet.hset(keys.SIGHTINGS, "ghost", now_ms - 700_000)
    due = explained(server, *reap)["ghost"]
    assert (due["goes"], due["reason"]) == (True, "no heartbeat for more than 10 min")
    fleet.set(keys.activity(b"ghost"), now_ms)
    works = explained(server, *reap)["ghost"]
    assert (works["goes"], works["reason"]) == (False, "no heartbeat, but at work")
    fleet.delete(keys.signal(b"ghost"), keys.activity(b"ghost"))
    fleet.set(keys.IDEMPOTENCY + b"ghost:other:done:1:%d" % now_ms, "1")
    shares = explained(server, *reap)["ghost"]
    assert (shares["goes"], shares["reason"]) == (False, "no heartbeat, but others may own its keys too")


def test_an_id_is_found_as_it_is_shown(server: Server, client: Redis) -> None:
    write_heartbeat(client, b"odd\n\x1b[31m\xff", "unreadable")
    (line,) = (line for line in run_on_terminal(server.url, "--explain").screen if line.startswith("odd"))
    shown = line.split()[0]
    assert shown == r"odd\n\x1b[31m\xff"
    assert len(explained(server, shown)) == 1


@pytest.mark.parametrize("id_", ["team[blue:3]x", "team[/x]", "build:key:1"])
def test_an_id_is_shown_as_it_is_though_rich_would_read_it(server: Server, client: Redis, id_: str) -> None:
    """What looks like Rich's markup, or like the name of an emoji."""
    write_heartbeat(client, id_.encode(), "unreadable")
    assert any(line.startswith(f"{id_} ") for line in run_on_terminal(server.url, "--explain").screen)
    assert f"Coordinator  {id_}" in run_on_terminal(server.url, "--explain", id_).screen
    unknown = " ".join(run_on_terminal(server.url, "--explain", f"{id_}2").screen)
    assert f"No coordinator '{id_}2', and no key that names it." in unknown


def test_a_pipe_gets_whole_names(server: Server, client: Redis) -> None:
    """However long they are, for grep looks at one line."""
    id_ = b"coordinator-" + 100 * b"1f0a33bc-"
    write_coordinators(client, [id_], STALE_AGE_MS)
    everybody = run_command(server.url, "--explain").stdout.splitlines()
    assert any(line.startswith(f"{id_.decode()} ") for line in everybody)
    alone = run_command(server.url, "--explain", id_.decode()).stdout.split()
    assert f"blocking:signal:{id_.decode()}" in alone


def test_nobody_of_that_name(server: Server, fleet: Redis) -> None:
    assert explained(server, "nobody") == {}
    assert "No coordinator 'nobody', and no key that names it." in " ".join(
        run_on_terminal(server.url, "--explain", "nobody").screen
    )


def test_a_long_table_is_cut(server: Server, client: Redis) -> None:
    write_coordinators(client, [b"stale-%d" % number for number in range(5)], STALE_AGE_MS)
    shown = run_on_terminal(server.url, "--explain", CLEANUP_MAX_REPORTED_IDS="2").screen
    assert len([line for line in shown if line.startswith("stale-")]) == 2
    assert shown[-1] == "3 more are not shown. --verbose shows all, --explain ID shows one."


def test_no_redis() -> None:
    ended = run_command(f"redis://127.0.0.1:{free_port()}", "--explain")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Redis connection failed" in ended.stderr
    assert "is the server running, and are host and port right?" in ended.stderr


def test_a_skipped_sweep_is_said(server: Server, tmp_path: Path) -> None:
    for _start in range(2):
        back = Server(str(server.process.args[0]), tmp_path)  # type: ignore[index]
        try:
            back.wait()
            with back.client() as client:
                write_coordinators(client, [b"stale"], STALE_AGE_MS)
                client.save()
            graced = {"CLEANUP_RESTART_GRACE_SECONDS": "600"}
            screen = run_on_terminal(back.url, "--explain", **graced).screen
            skipped = json.loads(run_command(back.url, "--explain", "--json", **graced).stdout)["skipped"]
            forced = json.loads(run_command(back.url, "--explain", "--json", "--force", **graced).stdout)
        finally:
            stop(back.process)
    assert "with earlier data, so it is left alone for 600 s" in skipped
    assert forced["skipped"] is None
    told = " ".join(" ".join(screen).split())
    assert f"Skipped {skipped[:12]}" in told
    assert "; a sweep does nothing now, unless you add --force Coordinator" in told
    assert "What a sweep would do stale" in told
    assert "stale would delete 2 acks" in told


def test_a_hold_is_said(server: Server, client: Redis) -> None:
    write_coordinators(client, [b"dead-%d" % number for number in range(20)], STALE_AGE_MS)
    before = digest(client)
    why = "nobody beats, and 20 look dead"
    assert {line["held"] for line in explained(server).values()} == {why}
    shown = " ".join(" ".join(run_on_terminal(server.url, "--explain").screen).split())
    assert f"Held {why}; a sweep deletes nothing now, unless you add --force. If nothing changes" in shown
    assert re.search(r"sweeps from now on are held until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC Coord", shown)
    assert "What a sweep would do dead-" in shown
    assert shown.count("stale would delete 2 acks") == 20
    alone = [" ".join(line.split()) for line in run_on_terminal(server.url, "--explain", "dead-1").screen]
    assert "would delete blocking:heartbeat:dead-1" in alone
    assert digest(client) == before
    forced = " ".join(" ".join(run_on_terminal(server.url, "--explain", "--force").screen).split())
    assert "would" not in forced
    assert "held" not in forced
    assert {line["held"] for line in explained(server, "--force").values()} == {None}


def test_one_that_looks_dead_and_was_seen_to_write(server: Server, client: Redis) -> None:
    """It had no heartbeat when it was sighted; so it stays in a sweep, whatever that does about orphans."""
    client.set(keys.signal(b"slow"), "1")
    assert run_command(server.url, "--orphans", "reap").returncode == 0
    write_coordinators(client, [b"slow"], STALE_AGE_MS)
    before = digest(client)
    for mode in ("off", "report", "reap"):
        ended = run_command(server.url, "--explain", "--orphans", mode, "--json")
        line = json.loads(ended.stdout)
        assert (line["verdict"], line["goes"]) == ("stale", False)
        assert line["reason"] == "it has written something since it was noted, whatever its clock says"
    assert digest(client) == before
    assert run_command(server.url, "--orphans", "off").returncode == 0
    assert client.exists(*keys_of(b"slow")) == len(keys_of(b"slow"))
