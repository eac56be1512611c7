"""The Makefile: ``make`` alone says what there is."""

import os
import re
import subprocess

from demo.stack import ROOT


def make(*arguments: str) -> str:
    """What make prints; it must succeed, also where the tests themselves were started by make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *arguments], cwd=ROOT, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = make().splitlines()
    assert make("help").splitlines() == listed
    # each with what it does
    assert [re.fullmatch(r"make (\S+) +\S.*", line)[1] for line in listed] == phony.split()  # type: ignore[index]


def test_make_test_unit_runs_that_folder() -> None:
    # of a dry run, without what builds the environment
    (command,) = (line for line in make("--dry-run", "test-unit").splitlines() if "pytest" in line)
    assert command.endswith("-m pytest tests/unit")
