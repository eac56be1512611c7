"""What people see on a terminal of 80 columns."""

import os
import re

import pytest
from redis import Redis

from cleanup_tasks.cli.progress import percent_after
from cleanup_tasks.cli.sweeping import AFTER_INTERRUPTION
from cleanup_tasks.rules import keys
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, free_port, wait_until
from tests.support.proxy import Proxy
from tests.support.sweeping import write_heartbeat
from tests.support.terminal import COLUMNS, on_terminal, run_on_terminal

BARS = ("Connecting", "Looking for", "Deleting", "Counting", "\u2501")


def rows(screen: list[str]) -> list[str]:
    """The lines, with one space in place of several and without what differs from run to run."""
    assert max(map(len, screen)) <= COLUMNS
    text = "\n".join(re.sub(r" {2,}", " ", line) for line in screen)
    text = re.sub(r"\d+ ms", "N ms", text)
    return re.sub(r"127\.0\.0\.1:\d+", "HERE", text).splitlines()


def test_a_run(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 2_000, 10)
    shown = run_on_terminal(server.url)
    assert shown.process.returncode == 0
    assert rows(shown.screen) == [
        "Redis HERE, database 0",
        "Checked 2,000 coordinators in N ms: 10 active, 1,990 stale",
        "Deleted 11,940 keys of 1,990 stale coordinators",
    ]
    # there was a bar, and nothing of it is left
    assert "Deleting" in shown.written
    assert "Counting" not in shown.written
    assert not any(bar in line for bar in BARS for line in shown.screen)


def test_a_dry_run_says_so_in_every_line(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 2_000, 10)
    shown = run_on_terminal(server.url, "--dry-run")
    assert rows(shown.screen) == [
        "[DRY-RUN] Redis HERE, database 0",
        "[DRY-RUN] Checked 2,000 coordinators in N ms: 10 active, 1,990 stale",
        "[DRY-RUN] Would delete 11,940 keys of 1,990 stale coordinators",
    ]
    assert "Counting" in shown.written
    assert not re.search("(?i)delet(ed|ing)|reap", shown.written)
    assert client.dbsize() == 2_000 * KEYS_EACH


def test_nothing_there(server: Server) -> None:
    assert rows(run_on_terminal(server.url).screen) == [
        "Redis HERE, database 0",
        "Checked 0 coordinators in N ms",
        "Deleted nothing",
    ]


def test_a_line_for_each_kind_of_unreadable_heartbeat(server: Server, client: Redis) -> None:
    """In words, for the names of the kinds are for programs."""
    client.mset({keys.heartbeat(b"odd"): "alive", keys.heartbeat(b"dated"): '"2026-01-01T00:00:00Z"'})
    assert [row.strip() for row in rows(run_on_terminal(server.url).screen)][-2:] == [
        "Unreadable 1: its time is a date as text, not a number of milliseconds",
        "1: it is not JSON; kept, see --explain",
    ]


def test_what_can_be_done_about_what_stays(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 2, 1)
    write_heartbeat(client, b"odd", "unreadable")
    client.set(keys.signal(b"ghost"), "1")
    shown = " ".join(rows(run_on_terminal(server.url, "--dry-run").screen)[1:])
    # the first is a little longer than the terminal is wide
    assert [" ".join(row.split()) for row in shown.split("[DRY-RUN]")[1:]] == [
        "Checked 3 coordinators in N ms: 1 active, 1 stale, 1 unreadable",
        "Would delete 6 keys of 1 stale coordinators",
        "Unreadable 1: it is not JSON; kept, see --explain",
        "Orphans 1 found: see --explain, remove with --orphans reap",
    ]


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_first_sighting_of_an_orphan_reaps_none_and_says_why(
    server: Server, client: Redis, dry_run: bool
) -> None:
    for id_ in (b"ghost-1", b"ghost-2"):
        client.set(keys.signal(id_), "1")
    shown = run_on_terminal(server.url, "--orphans", "reap", *["--dry-run"][: int(dry_run)])
    last = " ".join(" ".join(rows(shown.screen)[3:]).split())
    reaped = "to reap" if dry_run else "reaped"
    not_noted = "not noted yet (a real sweep with --orphans reap does that)"
    when = not_noted if dry_run else "seen too recently (due in 10 min)"
    assert last.removeprefix("[DRY-RUN] ") == (f"Orphans 2 found, 0 {reaped}; 2 {when}")
    assert client.exists(keys.signal(b"ghost-1"))


def test_another_sweep(server: Server, client: Redis) -> None:
    client.set(keys.LOCK, "somebody", px=60_000)
    assert rows(run_on_terminal(server.url).screen) == [
        "Redis HERE, database 0",
        "Skipped another sweep is running; nothing was done",
    ]


def test_no_redis() -> None:
    shown = run_on_terminal(f"redis://127.0.0.1:{free_port()}")
    assert shown.process.returncode == 1
    assert shown.screen[0].startswith("Error: Redis connection failed: ")
    assert shown.screen[-1] == "Error: Cleanup aborted"


def test_verbose_has_the_logs_lines_and_no_bar(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    shown = run_on_terminal(server.url, "--verbose")
    assert all(re.match(r"\[\d{4}-\d\d-\d\d ", line) for line in shown.written.splitlines())
    assert "Coordinator active: active-coordinator-0" in shown.written


def test_a_threshold_below_a_minute_is_warned_of(server: Server) -> None:
    shown = " ".join(run_on_terminal(server.url, "--stale-threshold", "59s").screen)
    assert "Warning: The threshold is only 59 s: " in shown
    assert "Warning" not in " ".join(run_on_terminal(server.url, "--stale-threshold", "1m").screen)


def test_one_bar_goes_one_way() -> None:
    percent, shown = 0.0, []
    for what, done, total in [
        ("finding", 1_000, 10_000),
        ("finding", 10_000, 10_000),
        ("collecting", 5_000, 10_000),
        ("reaping", 50, 100),
        # a second generation, and a total that is not known
        ("collecting", 1_000, 10_000),
        ("collecting", 0, 0),
        ("reaping", 100, 100),
    ]:
        percent = percent_after(percent, what, done, total)
        shown.append(percent)
    assert shown == [3, 30, 45, 80, 80, 80, 100]


def test_ctrl_c_tells_what_was_done_and_leaves_nothing_of_the_bar(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 2_000, 10)
    with Proxy(server.port) as proxy:
        proxy.cut_at(b"EVALSHA", 3, hold=True)
        with on_terminal(proxy.url) as terminal:
            wait_until(lambda: proxy.broken, "the sweep waits for an answer")
            os.write(terminal.keyboard, b"\x03")
            terminal.read()
    assert terminal.process.returncode == 130
    shown = [" ".join(line.split()).removeprefix("^C") for line in terminal.screen]
    told = f"Error: Cleanup interrupted: stopped by SIGINT{AFTER_INTERRUPTION}"
    assert " ".join(shown[:2]) == told
    assert "".join(terminal.screen).count("Error") == 1
    assert re.fullmatch(r"Deleted (\d+ keys of \d+ stale coordinators|nothing, as far as is known)", shown[4])
    assert re.fullmatch(
        r"Unfinished \d steps? given up or without an answer; the next run does the rest", shown[5]
    )
    assert not any(bar in line for bar in BARS for line in terminal.screen)


def test_a_hold_is_one_row_that_says_what_to_do(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 20, 0)
    shown = run_on_terminal(server.url)
    assert shown.process.returncode == 3
    checked, deleted, *held = rows(shown.screen)[1:]
    assert (checked, deleted) == ("Checked 20 coordinators in N ms: 20 stale", "Deleted nothing")
    assert re.fullmatch(
        "Held nobody beats, and 20 look dead; "
        "the cleanup goes on at [-0-9]+ [:0-9]+ UTC, or at once with --force",
        " ".join(" ".join(held).split()),
    )
    client.delete(keys.HOLD)
    announced = " ".join(" ".join(run_on_terminal(server.url, "--dry-run").screen).split())
    assert "20 look dead; a real run would also delete nothing, unless you add --force" in (
        announced.replace(" [DRY-RUN]", "")
    )
