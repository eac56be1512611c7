"""The benchmark, on its smallest data: it measures every way, judges every goal, and believes no sweep."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ("--largest", "1000", "--rounds", "1", "--only", "fleet")
#: A sweep that says all went well; what it did is put in.
FAKE = """
import json, os, redis
server = redis.Redis.from_url(os.environ["COORDINATION_REDIS_URL"])
{work}
print(json.dumps({{"implementation": "lua", "executionTimeMs": 20, "keysDeleted": 6930}}, indent=2))
"""


def benchmark(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *SHORT, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_measures_all_ways_and_judges_all_goals(tmp_path: Path) -> None:
    ended = benchmark("--json", str(tmp_path / "figures.json"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    runs = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["runs"]
    assert [(run["group"], run["way"]) for run in runs] == [
        ("fleet", "floor"),
        ("fleet", "Lua engine"),
        ("fleet", "Python engine"),
        ("fleet", "Lua engine, orphans reported"),
    ]
    for run in runs:
        assert run["wall ms"] > 0
        assert run["server ms"] > 0
        assert run["worker ms"] > 0
        assert run["peak MB"] > 10
        assert run["longest ms"] >= 0.5

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ended.stdout.splitlines()]
    goals = [row for row in rows if row and row[-1] in ("reached", "missed", "not measured")]
    assert Counter(goal[0].split(": ")[1] for goal in goals) == {
        "time / floor": 8,
        "server's time / floor": 4,
        "time for each key / fleet data": 6,
        "nothing stale, time / one SCAN pass": 6,
        "cluster of three, time / its floor": 4,
        "longest command": 12,
        "p99 of another client / no sweep": 4,
        "time / floor, in times of that at 10,000": 2,
        "worker's peak memory": 2,
        "time / without": 2,
    }
    assert [goal[:3] for goal in goals if goal[-1] != "not measured"] == [
        [f"{engine} engine: longest command", "fleet, 1,000", "5 ms"] for engine in ("Lua", "Python")
    ]


@pytest.mark.parametrize(
    ("work", "found"),
    [
        ("", "Lua engine on fleet, 1,000: +0 keys instead of -6,930"),
        ("server.flushall()", "Lua engine on fleet, 1,000: -7,000 keys instead of -6,930"),
        ("raise SystemExit(2)", "Lua engine ended with status 2"),
    ],
    ids=["too little", "too much", "failed"],
)
def test_a_wrong_sweep_ends_it(tmp_path: Path, work: str, found: str) -> None:
    (tmp_path / "cleanup_tasks").mkdir()
    (tmp_path / "cleanup_tasks" / "__init__.py").touch()
    (tmp_path / "cleanup_tasks" / "__main__.py").write_text(FAKE.format(work=work), encoding="utf-8")
    ended = benchmark("--checkout", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert found in ended.stderr
