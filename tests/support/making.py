"""Running make."""

import os
import subprocess

from demo.stack import ROOT


def make(*arguments: str, **variables: str) -> str:
    """What make prints; it must succeed, also where the tests themselves were started by make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *arguments], cwd=ROOT, text=True, capture_output=True, env=environment | variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
