"""Makes docs/flower.png and docs/flower-task.png, by ``make pictures``. Needs Chromium and its driver."""

import base64
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.exceptions import CeleryError
from redis import Redis
from redis.exceptions import RedisError
from selenium.webdriver import Chrome

from cleanup_tasks.rules import keys
from demo.browser import chromium
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.fleet import Fleet, fleet
from demo.servers import free_port, running_server, wait_until
from demo.stack import ROOT

#: The user of the coordination Redis whose rights are taken away for the fallback and the failure.
USER, PASSWORD = "sweeper", "first"
LOGIN = "admin:flower"
#: Pixels of a notebook's screen.
TASKS_SIZE = (1400, 790)
#: A narrower and higher one, for a task's own page.
TASK_SIZE = (1000, 1500)
#: The last row of that page in the picture; the others are of the same kind.
LAST_ROW = "Complete"
#: The newest first: failed, fallen back, skipped, ordinary, dry.
FINAL_STATES = ["FAILURE", *["SUCCESS"] * 4]


def make_runs(fleet: Fleet, client: Redis) -> list[str]:
    """Have a worker do an ordinary, a dry, a skipped, a fallen back and a failed run; returns their ids.

    The worker logs in as USER, see `user_url`; the coordination Redis is empty.
    """
    stale, active = [b"stale-%d" % n for n in range(9_900)], [b"active-%d" % n for n in range(100)]

    def run(**arguments: Any) -> str:
        result = fleet.send(**arguments)
        with contextlib.suppress(RedisError, CeleryError):
            result.get(timeout=60)
        return str(result.id)

    write_coordinators(client, stale, STALE_AGE_MS)
    write_coordinators(client, active, ACTIVE_AGE_MS)
    ids = [run(dry_run=True, target="default"), run()]
    client.set(keys.LOCK, "somebody", px=60_000)
    ids.append(run())
    client.delete(keys.LOCK)
    write_coordinators(client, stale[:250], STALE_AGE_MS)
    client.acl_setuser(USER, enabled=True, commands=["-evalsha"])
    ids.append(run())
    client.acl_setuser(USER, enabled=True, passwords=[f"-{PASSWORD}", "+second"])
    ids.append(run())
    return ids


def make_user(client: Redis) -> None:
    """Make the user that the worker logs in as."""
    client.acl_setuser(USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])


def user_url(port: int) -> dict[str, str]:
    """The environment by which a worker logs in as USER."""
    return {"COORDINATION_REDIS_URL": f"redis://{USER}:{PASSWORD}@127.0.0.1:{port}/0"}


def rows(browser: Chrome) -> list[dict[str, str]]:
    """What the tasks page shows, a dict of column -> text for each task, the newest first."""
    shown: list[dict[str, str]] = browser.execute_script(_READ_ROWS)
    return shown


def states(browser: Chrome) -> list[str]:
    """The states that the tasks page shows, the newest first."""
    return [row.get("state", "") for row in rows(browser)]


#: In one step, for the page draws itself anew all the time.
_READ_ROWS = """
const heads = [...document.querySelectorAll('#tasks-table thead th')].map(head => head.dataset.column);
return [...document.querySelectorAll('#tasks-table tbody tr')].map(row => Object.fromEntries(
    [...row.cells].map((cell, position) => [heads[position], cell.innerText.trim()])));
"""


@dataclass(frozen=True)
class Shown:
    """A dashboard that saw the five runs, and a browser that looks at it."""

    fleet: Fleet
    port: int
    page: Chrome
    #: Dry, ordinary, skipped, fallen back, failed.
    ids: list[str]

    def open_tasks(self) -> None:
        """Go to the tasks page, and wait for the runs."""
        self.page.set_window_size(*TASKS_SIZE)
        self.page.get(f"http://{LOGIN}@127.0.0.1:{self.port}/tasks")
        wait_until(lambda: states(self.page) == FINAL_STATES, "all runs are shown as ended")

    def open_task(self, id_: str) -> None:
        """Go to a task's own page."""
        self.page.get(f"http://{LOGIN}@127.0.0.1:{self.port}/task/{id_}")
        self.page.set_window_size(*TASK_SIZE)


@contextlib.contextmanager
def shown_runs() -> Iterator[Shown]:
    """Servers, worker, dashboard and browser for the length of a with block, on the tasks page."""
    with (
        running_server() as coordination,
        running_server() as broker,
        coordination.client() as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        make_user(client)
        environment = user_url(coordination.port) | {"FLOWER_BASIC_AUTH": LOGIN}
        with (
            fleet(coordination, broker, Path(folder), environment) as running,
            chromium(*TASKS_SIZE, scale=1.5) as page,
        ):
            port = free_port()
            running.stack.start_flower(port)
            running.stack.start_worker()
            shown = Shown(running, port, page, make_runs(running, client))
            shown.open_tasks()
            yield shown


#: Hides the columns that reach over the edge, for half a column is of no use in a picture.
_HIDE_WHAT_IS_CUT = """
const heads = [...document.querySelectorAll('#tasks-table thead th')];
const isCut = head => head.getBoundingClientRect().right > document.documentElement.clientWidth;
$('#tasks-table').DataTable().columns(heads.map(head => heads.indexOf(head)).filter(at => isCut(heads[at])))
    .visible(false);
"""
#: Where a row of a task's page ends.
_END_OF_ROW = """
return [...document.querySelectorAll('.detail-row')]
    .find(row => row.querySelector('dt').innerText === arguments[0]).getBoundingClientRect().bottom;
"""


def take(page: Chrome, file: Path, height: float | None = None) -> None:
    """Write a picture of the page into a file, down to `height`; None: of what the window shows."""
    width, whole = page.execute_script("return [document.documentElement.clientWidth, window.innerHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
    taken = page.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(taken["data"]))


def take_both(shown: Shown, folder: Path) -> None:
    """Write a picture of the tasks page, and one of a task's page."""
    shown.open_tasks()
    shown.page.execute_script(_HIDE_WHAT_IS_CUT)
    take(shown.page, folder / "flower.png")
    # which the page would remember
    shown.page.execute_script("localStorage.clear()")
    shown.open_task(shown.ids[1])
    take(shown.page, folder / "flower-task.png", shown.page.execute_script(_END_OF_ROW, LAST_ROW))


if __name__ == "__main__":
    with shown_runs() as runs:
        take_both(runs, ROOT / "docs")
