"""The benchmark, on its smallest data set: every way does its work, and every goal gets a verdict."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_smallest_run() -> None:
    command = [sys.executable, "-W", "error", "-m", "benchmarks", "--largest", "100"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines()]
    goals = [row for row in rows if len(row) == 4 and row[3] in ("reached", "missed", "not measured")]
    judged = {row[0]: row[3] for row in goals if row[3] != "not measured"}
    assert len(goals) == 26
    assert {
        f"{engine} engine: {what} at 100{against}"
        for engine in ("Lua", "Python")
        for what, against in (
            ("longest command", ""),
            ("p99 of a beating client", ", against no sweep"),
        )
    } == judged.keys()
