"""Whose broker a task goes to: the host's application where there is one, ours where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

HOST = "from celery import Celery; host = Celery('host', broker='memory://host')"
OURS = "from cleanup_tasks import app"
THREAD = (
    "from concurrent.futures import ThreadPoolExecutor;"
    "shown = ThreadPoolExecutor(1).submit(lambda: cleanup.app.conf.broker_url).result()"
)
MAIN = "shown = cleanup.app.conf.broker_url"
#: Of a celeryconfig.py of the user's.
DEFAULT = "memory://default"
OWN_BROKER = "redis://broker.example/3"


@pytest.mark.parametrize("names", ["cleanup_tasks", "cleanup_tasks.tasks"])
@pytest.mark.parametrize(
    ("program", "broker"),
    [
        (["{names}", MAIN], OWN_BROKER),
        (["{names}", THREAD], OWN_BROKER),
        ([HOST, "{names}", MAIN], "memory://host"),
        (["{names}", HOST, MAIN], "memory://host"),
        (["{names}", "before = cleanup.app", HOST, MAIN], "memory://host"),
        ([HOST, "{names}", THREAD], "memory://host"),
        ([HOST, OURS, "{names}", MAIN], "memory://host"),
        ([HOST, OURS, "{names}", THREAD], "memory://host"),
        ([HOST, OURS, "{names}", "app.set_current()", MAIN], OWN_BROKER),
        # they can't be told apart there: as with every shared task, the host has to say which is the default
        ([HOST, "second = Celery('second')", "host.set_default()", "{names}", THREAD], "memory://host"),
        # an application that only its own configuration file knows of
        (["{names}", MAIN], DEFAULT),
    ],
)
def test_where_a_task_goes(
    names: str, program: list[str], broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broker == OWN_BROKER:
        monkeypatch.setenv("CELERY_BROKER_URL", OWN_BROKER)
    if broker == DEFAULT:
        (tmp_path / "celeryconfig.py").write_text(f"broker_url = '{DEFAULT}'\n")
    lines = [line.format(names=f"from {names} import cleanup, cleanup_fallback") for line in program]
    lines += ["same = cleanup.app is cleanup_fallback.app", "print(shown, same)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, text=True, capture_output=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"{broker} True\n", "")


def test_to_import_us_changes_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from celery import current_app, Celery; host = Celery('host', broker='memory://');"
        "host.finalize(); conf = dict(host.conf);"
        "from cleanup_tasks import cleanup, cleanup_fallback;"
        "assert cleanup.app is host; assert current_app.main == 'host';"
        "assert dict(host.conf) == conf;"
        # what only other parts of ours need
        "others = {'cleanup_tasks.celery', 'celeryconfig', 'rich', 'flower', 'tornado'};"
        "print(sorted(others & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
