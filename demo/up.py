"""make up: a playground, a small fleet that lives and dies, to watch in Flower until Ctrl-C."""

import errno
import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis

from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.fleet import Fleet, fleet
from demo.interrupts import pause
from demo.program import NotAsExpected, console, done, forget_settings, perform
from demo.servers import running_server

#: Coordinators that have left keys behind before anybody looks, and those that live at any time.
DEAD, LIVING = 990, 10
#: Seconds between two sweeps, between two heartbeats, of silence after which a coordinator counts as dead,
#: and between two deaths.
INTERVAL_S, BEAT_S, THRESHOLD_S, LIFE_S = 10, 2, 20, 10

DEFAULT_PORT = "5555"


def play(stack: ExitStack, folder: Path) -> None:
    """Start everything, send a first sweep, and go on until Ctrl-C."""
    port = flower_port(os.environ.get("FLOWER_PORT") or DEFAULT_PORT)
    console.print("This is a playground. It starts servers of its own, and touches no other server.")
    if ignored := [name for name in forget_settings() if name != "FLOWER_PORT"]:
        console.print(f"These variables of your environment are not used here: {', '.join(ignored)}.")
    coordination = stack.enter_context(running_server())
    broker = stack.enter_context(running_server())
    client = stack.enter_context(coordination.client())
    write_coordinators(client, [b"dead-coordinator-%d" % number for number in range(DEAD)], STALE_AGE_MS)
    done(f"The coordination Redis is up, with the keys of {DEAD} dead coordinators.")
    environment = {
        "CLEANUP_INTERVAL_SECONDS": str(INTERVAL_S),
        "CLEANUP_STALE_THRESHOLD_SECONDS": str(THRESHOLD_S),
    }
    running = stack.enter_context(fleet(coordination, broker, folder, environment))
    # Flower shows what it has seen, so it comes before the first task
    running.stack.start_flower(port)
    done("Flower is up.")
    running.stack.start_worker()
    done("A worker is up.")
    write_coordinators(client, living(0), age_ms=0)
    for dry_run in (True, False):
        running.send(dry_run=dry_run)
    running.stack.start_beat()
    done(f"A beat is up. It sends the cleanup every {INTERVAL_S} seconds.")
    console.print(
        f"\nOpen [bold]http://127.0.0.1:{port}/tasks[/] in a browser to watch. Ctrl-C ends everything.\n\n"
        "To try the command on this playground, from another terminal:\n"
        f"  .venv/bin/cleanup-blocking-coordination --redis-url {coordination.url} \\\n"
        f"      --stale-threshold {THRESHOLD_S}\n\n"
        f"{LIVING} coordinators are alive and beat every {BEAT_S} seconds. "
        f"Every {LIFE_S} seconds one of them\n"
        "dies and another one starts. If a coordinator has been silent for more than\n"
        f"{THRESHOLD_S} seconds, it counts as dead, and the next sweep deletes its keys:",
        soft_wrap=True,
    )
    live(running, client)


def flower_port(text: str) -> int:
    """The port for Flower, which must be free; raises NotAsExpected with what to do."""
    if not (text.isdecimal() and 0 < int(text) < 65_536):
        raise NotAsExpected(f"FLOWER_PORT must be a number from 1 to 65535; it is {text!r}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Flower binds it
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            reason = (
                "is already in use" if error.errno == errno.EADDRINUSE else f"can't be used: {error.strerror}"
            )
            raise NotAsExpected(f"Port {text} {reason}. Use another one: make up FLOWER_PORT=5556") from None
    return int(text)


def live(running: Fleet, client: Redis) -> None:
    """Have coordinators beat, die and start, and show each sweep that ends."""
    started_s, shown = time.monotonic(), set[str]()
    while True:
        running.stack.check()
        write_coordinators(client, living(time.monotonic() - started_s), age_ms=0)
        for result in running.finished():
            if result["task_id"] not in shown:
                shown.add(result["task_id"])
                console.print(f"  {time.strftime('%H:%M:%S')}  {in_words(result)}")
        pause(BEAT_S)


def living(seconds: float) -> list[bytes]:
    """Who is alive some seconds after the start: the oldest one dies when a new one comes."""
    deaths = int(seconds / LIFE_S)
    return [b"coordinator-%d" % number for number in range(deaths, deaths + LIVING)]


def in_words(result: dict[str, Any]) -> str:
    """What one sweep did."""
    metrics = result["result"]
    if result["status"] != "SUCCESS":
        return f"A sweep failed: {metrics}"
    if metrics["skipped"]:
        return f"Skipped, which is no fault: {metrics['skipped']}."
    dead, keys = metrics["staleCoordinatorsFound"], metrics["keysDeleted"]
    found = f"{metrics['totalCoordinatorsChecked']:,} checked, {dead:,} dead"
    if metrics["dryRun"]:
        return f"Dry run: {found}, {keys:,} keys would be deleted."
    return f"Sweep: {found}, {keys:,} keys deleted in {metrics['executionTimeMs']} ms."


if __name__ == "__main__":
    sys.exit(perform(play, status_of_ctrl_c=0))
