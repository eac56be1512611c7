"""The dashboard in a real browser: what somebody sees who looks at the tasks page."""

import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.fleet import fleet
from demo.screenshot import Shown, rows, shown_runs
from demo.servers import Server, free_port
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
            "cleanup_tasks.cleanup",
            "FAILURE",
            "AuthenticationError: invalid username-password pair or user is disabled.",
            "",
            "0",
        ),
        (
            "cleanup_tasks.cleanup_fallback",
            "SUCCESS",
            "FALLBACK · 1,500 keys deleted · 250/350 stale · "
            "User sweeper has no permissions to run the 'evalsha' command",
            "",
            "1",
        ),
        ("cleanup_tasks.cleanup", "SUCCESS", "SKIPPED: another sweep is running", "", "0"),
        ("cleanup_tasks.cleanup", "SUCCESS", "59,400 keys deleted · 9,900/10,000 stale", "", "0"),
        (
            "cleanup_tasks.cleanup",
            "SUCCESS",
            "DRY RUN · 59,400 keys · 9,900/10,000 stale",
            "dry_run=True",
            "0",
        ),
    ]
    columns = ("name", "state", "result", "kwargs", "retries")
    shown.open_tasks()
    table = rows(shown.page)
    assert [tuple(row[column] for column in columns) for row in table] == expected
    assert [row["uuid"] for row in table] == shown.ids[::-1]
    assert {row["worker"].split("@")[0] for row in table} == {"worker"}


def test_nothing_that_matters_is_cut_off(shown: Shown) -> None:
    shown.open_tasks()
    cut = shown.page.execute_script(
        "return [...document.querySelectorAll('#tasks-table tbody tr')].map("
        "row => row.cells[2].scrollWidth > row.cells[2].clientWidth)"
    )
    # the failure's and the refusal's text go on when scrolled
    assert cut == [True, True, False, False, False]


def test_the_task_page_has_the_whole_error(shown: Shown) -> None:
    shown.page.get(f"http://127.0.0.1:{shown.port}/task/{shown.ids[-1]}")
    text = shown.page.execute_script("return document.body.innerText")
    assert "AuthenticationError: invalid username-password pair or user is disabled." in text
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


def test_the_picture_is_of_this_page(shown: Shown) -> None:
    """Its size shows whether it was made by today's script; what is in it, the tests above."""
    shown.open_tasks()
    committed = (ROOT / "docs" / "flower.png").read_bytes()
    assert size(committed) == size(shown.page.get_screenshot_as_png())


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
