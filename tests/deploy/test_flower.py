"""The dashboard in a real browser: what somebody sees who looks at the tasks page."""

import re
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.fleet import fleet
from demo.screenshot import Shown, rows, shown_runs, take_both
from demo.servers import Server, free_port, wait_until
from demo.stack import ROOT

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    """A dashboard that saw five runs."""
    with shown_runs() as shown:
        yield shown


def test_what_each_run_did_is_seen_at_a_glance(shown: Shown) -> None:
    expected = [
        (
            "cleanup",
            "FAILURE",
            "AuthenticationError: invalid username-password pair or user is disabled "
            "(check user and password; in a URL special characters are written as %XX)",
            "",
            "0",
        ),
        (
            "cleanup_fallback",
            "SUCCESS",
            "FALLBACK · 1,500 keys deleted · 250/350 stale · "
            "User sweeper has no permissions to run the 'evalsha' command",
            "",
            "1",
        ),
        ("cleanup", "SUCCESS", "SKIPPED: another sweep is running", "", "0"),
        ("cleanup", "SUCCESS", "59,400 keys deleted · 9,900/10,000 stale", "", "0"),
        (
            "cleanup",
            "SUCCESS",
            "DRY RUN · 59,400 keys · 9,900/10,000 stale",
            "dry_run=True, target=default",
            "0",
        ),
    ]
    columns = ("name", "state", "result", "kwargs", "retries")
    shown.open_tasks()
    table = rows(shown.page)
    assert [tuple(row[column] for column in columns) for row in table] == expected
    assert [row["uuid"] for row in table] == shown.ids[::-1]
    assert {row["worker"].split("@")[0] for row in table} == {"worker"}


def test_what_is_read_often_is_seen_without_scrolling(shown: Shown) -> None:
    shown.open_tasks()
    width = shown.page.execute_script("return document.documentElement.clientWidth")
    assert width == 1400
    # the right edge of each column, and whether it shows all of each result
    edges, cut = shown.page.execute_script(
        "const heads = [...document.querySelectorAll('#tasks-table thead th')];"
        "const cells = [...document.querySelectorAll('#tasks-table tbody tr')].map(row => row.cells[2]);"
        "const isCut = cell => cell.scrollWidth > cell.clientWidth;"
        "const right = head => [head.dataset.column, head.getBoundingClientRect().right];"
        "return [Object.fromEntries(heads.map(right)), cells.map(isCut)]"
    )
    assert sorted(edges, key=edges.get)[:6] == ["name", "state", "result", "kwargs", "received", "runtime"]
    assert edges["runtime"] < width
    # there is room for a link to the task's page beside it
    assert edges["runtime"] + 50 < width
    # the failure's and the refusal's text go on; the task's own page has them whole
    assert cut == [True, True, False, False, False]


def test_a_name_leads_to_the_runs_of_that_name(shown: Shown) -> None:
    for name, expected in (("cleanup", 5), ("cleanup_fallback", 1)):
        shown.page.get(f"http://127.0.0.1:{shown.port}/tasks?name={name}")
        wait_until(lambda: len(rows(shown.page)) == expected, f"the runs of {name}")  # noqa: B023
    # the page remembers what was searched for
    shown.page.execute_script("localStorage.clear()")


def test_the_task_page_has_all_metrics(shown: Shown) -> None:
    shown.open_task(shown.ids[1])
    seen = shown.page.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.detail-row')].map("
        "row => [row.querySelector('dt').innerText, row.querySelector('dd').innerText.trim()]))"
    )
    result = shown.fleet.caller.AsyncResult(shown.ids[1]).get()
    assert len(result["staleCoordinatorIds"]) == 100
    assert (result["unreadableByReason"], result["skipped"]) == ({}, None)
    shown_as: dict[type, Any] = {list: ", ".join, dict: lambda _: ""}
    expected = {
        re.sub("([A-Z])", r" \1", name).capitalize(): shown_as.get(type(value), str)(value)
        for name, value in result.items()
    }
    assert expected["Stale threshold seconds"] == "600"
    assert {name: seen.get(name) for name in expected} == expected
    assert seen["Result"] == "59,400 keys deleted · 9,900/10,000 stale"


def test_the_task_page_has_the_whole_error(shown: Shown) -> None:
    shown.page.get(f"http://127.0.0.1:{shown.port}/task/{shown.ids[-1]}")
    text = shown.page.execute_script("return document.body.innerText")
    assert "AuthenticationError: invalid username-password pair or user is disabled (check" in text
    assert "Traceback" in text


def test_nobody_sees_a_password(shown: Shown) -> None:
    shown.open_tasks()
    worker = rows(shown.page)[0]["worker"]
    for path in ("tasks", "workers", f"worker/{worker}", f"task/{shown.ids[0]}"):
        shown.page.get(f"http://127.0.0.1:{shown.port}/{path}")
        assert "first@" not in shown.page.page_source
        assert "sweeper:" not in shown.page.page_source


def test_nobody_comes_in_without_the_login(shown: Shown) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"http://127.0.0.1:{shown.port}/tasks", timeout=10)
    with refusal.value as answer:
        assert answer.code == 401


def test_history_survives_a_restart(shown: Shown) -> None:
    shown.open_tasks()
    before = rows(shown.page)
    stack = shown.fleet.stack
    stack.stop("flower")
    stack.start_flower(shown.port)
    shown.open_tasks()
    assert rows(shown.page) == before


def test_the_pictures_are_of_these_pages(shown: Shown, tmp_path: Path) -> None:
    """Their sizes show whether they were made by today's script; what is in them, the tests above."""
    take_both(shown, tmp_path)
    for picture in tmp_path.iterdir():
        assert size((ROOT / "docs" / picture.name).read_bytes()) == size(picture.read_bytes())


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize(("login", "reachable"), [("", False), ("admin:flower", True)])
def test_without_a_login_it_listens_on_the_loopback_only(
    login: str, reachable: bool, server: Server, broker: Server, tmp_path: Path
) -> None:
    environment = {
        "FLOWER_ADDRESS": "0.0.0.0",  # noqa: S104
        "FLOWER_BASIC_AUTH": login,
    }
    with fleet(server, broker, tmp_path, {k: v for k, v in environment.items() if v}) as running:
        port = free_port()
        running.stack.start("flower", "flower", f"--port={port}")
        running.stack.wait_for_line("flower", "Connected to")

        def answers(address: str) -> bool:
            with socket.socket() as connection:
                return connection.connect_ex((address, port)) == 0

        # 127.0.0.2 is this machine by another address: one that a listener on 127.0.0.1 does not have
        assert answers("127.0.0.1")
        assert answers("127.0.0.2") == reachable
