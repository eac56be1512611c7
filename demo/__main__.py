"""make demo: the main job on real data, by a real server, a real beat and a real worker; then it ends."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis
from rich.table import Table

from cleanup_tasks import app, cleanup
from cleanup_tasks.rules import keys
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.fleet import Fleet, fleet
from demo.program import NotAsExpected, console, done, forget_settings, perform
from demo.servers import running_server, wait_until

TOTAL, ACTIVE = 10_000, 100
DEAD_KEYS, LIVING_KEYS = (TOTAL - ACTIVE) * KEYS_EACH, ACTIVE * KEYS_EACH
INTERVAL_S = 3
#: What the sweep of these may take at most.
LIMIT_S = 5


def check(what: str, seen: object, expected: object) -> None:
    """Show a check; raises NotAsExpected where it fails."""
    if seen != expected:
        raise NotAsExpected(f"{what}: expected {expected}, saw {seen}")
    done(f"{what}: {seen:,}" if type(seen) is int else f"{what}: {seen}")


def show(metrics: dict[str, Any]) -> None:
    """The metrics dict as a table; of the ids just the first."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in metrics.items():
        is_long = isinstance(value, list) and len(value) > 2
        table.add_row(name, f"{value[0]}, … ({len(value)} ids)" if is_long else str(value))
    console.print(table)


def result_of(task: Any) -> dict[str, Any]:
    """The metrics dict of a task that was sent, once it is there."""
    wait_until(task.ready, "the task has ended")
    metrics: dict[str, Any] = task.get()
    return metrics


def play(stack: ExitStack, folder: Path) -> None:
    """The three scenes."""
    coordination = stack.enter_context(running_server())
    broker = stack.enter_context(running_server())
    client = stack.enter_context(coordination.client())
    running = stack.enter_context(
        fleet(coordination, broker, folder, {"CLEANUP_INTERVAL_SECONDS": str(INTERVAL_S)})
    )
    # what our own app, the caller here, reads when it is first used
    forget_settings()
    os.environ.update(running.stack.environment)
    # there are two applications in this process, for the fleet has a caller of its own
    app.set_current()
    by_beat(running, client)
    dry_run(client)
    without_scripting(client)


def count_keys(client: Redis) -> int:
    """How many keys there are besides the sweeps' own."""
    own = client.exists(keys.LOCK, keys.SIGHTINGS, keys.COOLDOWN)
    return int(client.dbsize()) - int(own)


def by_beat(running: Fleet, client: Redis) -> None:
    """A beat fires, a worker cleans, and the metrics come back."""
    console.rule("1. The beat sends the task, and a worker cleans up")
    console.print(
        f"A Valkey {client.info('server')['valkey_version']} server is started for this demo. "
        f"It gets {TOTAL:,} coordinators;\n"
        f"{ACTIVE} of them are alive, and the others were last heard of 11 minutes ago."
    )
    write_acceptance_data(client, TOTAL, ACTIVE)
    check("keys before", count_keys(client), TOTAL * KEYS_EACH)
    console.print(f"Now starting a worker and a beat, which sends the task every {INTERVAL_S} seconds …")
    running.stack.start_worker()
    running.stack.start_beat()
    # nobody but the beat has sent any task so far
    wait_until(running.finished, "a task that the beat has sent is finished")
    running.stack.stop("beat")
    result = app.AsyncResult(running.finished()[0]["task_id"])
    metrics = result.get(timeout=30)
    console.print(f"\nTask {result.name}, {result.state}. Its result, as Celery stored it:")
    show(metrics)
    check("keysDeleted", metrics["keysDeleted"], DEAD_KEYS)
    took_s = metrics["executionTimeMs"] / 1000
    if took_s >= LIMIT_S:
        raise NotAsExpected(f"less than {LIMIT_S} seconds: it took {took_s:.2f} s")
    done(f"less than {LIMIT_S} seconds: {took_s:.2f} s")
    check("implementation", metrics["implementation"], "lua")
    check("keys of the living that are still there", count_keys(client), LIVING_KEYS)


def dry_run(client: Redis) -> None:
    """A dry run from Python changes nothing."""
    console.rule("2. A dry run: cleanup.delay(dry_run=True)")
    console.print("The dead coordinators are written once more.")
    write_acceptance_data(client, TOTAL, ACTIVE)
    metrics = result_of(cleanup.delay(dry_run=True))
    check("dryRun", metrics["dryRun"], True)
    check("keysDeleted, the keys that a real run would delete", metrics["keysDeleted"], DEAD_KEYS)
    check("keys that are still there, which is all of them", count_keys(client), DEAD_KEYS + LIVING_KEYS)


def without_scripting(client: Redis) -> None:
    """Where Redis forbids scripts, the second task does the work."""
    console.rule("3. Redis forbids Lua scripts: the fallback does the same work")
    console.print("The command EVALSHA is taken away from the user by Redis's access control list.")
    client.execute_command("ACL", "SETUSER", "default", "-evalsha")  # type: ignore[no-untyped-call]
    result = cleanup.delay()
    metrics = result_of(result)
    check("task that ended the run", result.name, "cleanup_tasks.cleanup_fallback")
    check("implementation", metrics["implementation"], "python")
    check("keysDeleted", metrics["keysDeleted"], DEAD_KEYS)
    check("keys of the living that are still there", count_keys(client), LIVING_KEYS)
    console.print(f"  fallbackReason: {metrics['fallbackReason']}")


def main() -> int:
    """Play the demo; 0, or not 0 with a clear message. It leaves no process and no file behind."""
    status = perform(play, status_of_ctrl_c=130)
    if status == 0:
        console.rule("[green]All is as it should be, and everything is stopped")
    return status


if __name__ == "__main__":
    sys.exit(main())
