"""What a sweep asks of the server, counted in commands and bytes, which don't depend on the machine."""

from collections import Counter
from typing import Any

from redis import Redis

from cleanup_tasks.engines import Engine
from cleanup_tasks.pace import NEAR
from cleanup_tasks.report import Report
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep
from demo.dataset import KEYS_EACH, write_acceptance_data
from tests.sweeping import new_report

COORDINATORS = 2_000
STALE = 1_980
#: Of a hundred coordinators each: their six keys, and the heartbeat and activity of the two other ids
#: that each record may name.
BATCHES = -(-STALE * (KEYS_EACH + 4) // NEAR.batch_keys)
#: Pages in one pass.
PAGES = -(-COORDINATORS * KEYS_EACH // NEAR.scan_count)
#: Values are read a hundred at a time, in lots with the server's time.
READS = COORDINATORS // 100
LOTS = COORDINATORS // NEAR.values + 1
#: SCAN, the heartbeats, and whether there are notes of orphans.
LOOKING = {"scan": PAGES, "exists": 1, "mget": READS}
#: The activities of the silent, and a second pass for related keys.
FINDING = {"scan": 2 * PAGES, "exists": 1, "mget": 2 * READS}
#: Per batch; what a script calls counts too.
REAPING = {
    "lua": {"evalsha": 1, "time": 1, "exists": 1, "mget": 1, "unlink": 1},
    "python": {"watch": 1, "time": 1, "mget": 1, "exists": 1, "multi": 1, "unlink": 1, "exec": 1},
}
#: The server doesn't know the script when the first batches come.
FIRST_TIME = {"lua": {"script": NEAR.batches, "evalsha": NEAR.batches}, "python": {}}
#: How a connection introduces itself.
INTRODUCTIONS = ("client", "hello")
#: Bytes to the server and from it: what was measured, and 3 % for longer cursors and the like.
BYTES_LOOKING = (100_000, 262_000)
BYTES = {"lua": (1_379_000, 731_000), "python": (1_614_000, 1_051_000)}


def sweep(client: Redis, engine: Engine) -> tuple[Report, dict[str, int], tuple[int, int]]:
    """The report of a sweep, the calls of each command, and the bytes to the server and from it."""
    report = new_report(engine.name)
    client.config_resetstat()
    Sweep(SingleServer(client), engine, report).run()
    info: dict[str, Any] = client.info("everything")
    calls: Counter[str] = Counter()
    for name, row in info.items():
        if name.startswith("cmdstat_"):
            # since 7.0 with the subcommand: "script|load"
            calls[name.removeprefix("cmdstat_").split("|")[0]] += row["calls"]
    for name in ("info", "config", *INTRODUCTIONS):
        del calls[name]
    return report, dict(calls), (info["total_net_input_bytes"], info["total_net_output_bytes"])


def test_most_are_stale(client: Redis, engine: Engine) -> None:
    write_acceptance_data(client, COORDINATORS, COORDINATORS - STALE)
    report, calls, wire = sweep(client, engine)
    assert report.keys_deleted == STALE * KEYS_EACH
    each_batch = {name: number * BATCHES for name, number in REAPING[engine.name].items()}
    assert_calls(
        calls, Counter(FINDING) + Counter(each_batch) + Counter(FIRST_TIME[engine.name]), lots=2 * LOTS
    )
    assert_within(wire, BYTES[engine.name])


def test_nobody_is_stale(client: Redis, engine: Engine) -> None:
    write_acceptance_data(client, COORDINATORS, COORDINATORS)
    report, calls, wire = sweep(client, engine)
    assert report.active_coordinators == COORDINATORS
    assert_calls(calls, Counter(LOOKING), lots=LOTS)
    assert_within(wire, BYTES_LOOKING)


def test_commands_grow_with_the_keys(client: Redis, engine: Engine) -> None:
    """Twice the coordinators, twice the commands."""
    write_acceptance_data(client, COORDINATORS, 20)
    _, calls, _ = sweep(client, engine)
    client.flushall()
    write_acceptance_data(client, 2 * COORDINATORS, 40)
    _, more_calls, _ = sweep(client, engine)
    assert 1.8 < sum(more_calls.values()) / sum(calls.values()) < 2.2


def assert_calls(calls: dict[str, int], expected: Counter[str], lots: int) -> None:
    """Exactly these commands, and per lot the server's time and at most one more read.

    How the keys fall into pages decides how many lots there are, up to `lots`.
    """
    lots_read = calls.pop("time") - expected.pop("time", 0)
    assert lots / 3 < lots_read <= lots
    assert 0 <= calls.pop("mget") - expected.pop("mget") <= lots_read
    assert calls == dict(expected)


def assert_within(wire: tuple[int, int], limits: tuple[int, int]) -> None:
    """Neither direction takes more than its limit, nor so much less that the limit says nothing."""
    for direction, used, limit in zip(("to the server", "from it"), wire, limits, strict=True):
        assert 0.94 * limit < used <= limit, f"{used} bytes {direction}, limit {limit}"
