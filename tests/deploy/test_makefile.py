"""The Makefile: ``make`` alone says what there is, and its short cuts run the command."""

import re
import sys
from pathlib import Path

import pytest
from redis import Redis

from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server
from demo.stack import ROOT
from tests.support.making import make


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    listed = make().splitlines()
    assert make("help").splitlines() == listed
    # each with a sentence, on one line of a terminal
    assert [re.fullmatch(r"make (\S+) +[A-Z].*\.", line)[1] for line in listed] == phony.split()  # type: ignore[index]
    assert max(map(len, listed)) <= 80


def test_make_test_unit_runs_that_folder() -> None:
    # of a dry run, without what builds the environment
    (command,) = (line for line in make("--dry-run", "test-unit").splitlines() if "pytest" in line)
    assert command.endswith("-m pytest tests/unit")


@pytest.mark.parametrize(("target", "left"), [("dry-run", 10), ("cleanup", 1)])
def test_the_short_cuts_use_the_settings_of_the_environment(
    target: str, left: int, server: Server, client: Redis
) -> None:
    write_acceptance_data(client, 10, 1)
    # this environment of Python, and nothing is installed into it
    here = ("--old-file=.venv/demo", f"BIN={Path(sys.executable).parent}")
    shown = make(*here, target, COORDINATION_REDIS_URL=f"redis://127.0.0.1:{server.port}/0")
    assert "54" in shown
    assert client.dbsize() == left * KEYS_EACH


def test_the_short_cuts_pass_arguments_on(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    here = ("--old-file=.venv/demo", f"BIN={Path(sys.executable).parent}")
    shown = make(*here, "cleanup", "ARGS=--dry-run --json", COORDINATION_REDIS_URL=server.url)
    assert '"keysDeleted": 54' in shown
    assert client.dbsize() == 10 * KEYS_EACH
