"""make demo: the main job on real data, by a real server, a real beat and a real worker; then it ends."""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis
from rich.console import Console
from rich.table import Table

from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import interruptible, running_server, wait_until
from demo.stack import Stack

TOTAL, ACTIVE = 10_000, 100
DOOMED, KEPT = (TOTAL - ACTIVE) * KEYS_EACH, ACTIVE * KEYS_EACH
INTERVAL_S = 3

console = Console(highlight=False)


class CheckFailed(Exception):
    """What the demo shows is not what it should be."""


def check(what: str, seen: object, expected: object) -> None:
    """Show a check; raises CheckFailed where it fails."""
    if seen != expected:
        raise CheckFailed(f"{what}: expected {expected}, saw {seen}")
    console.print(f"  [green]✓[/] {what}: {seen}")


def show(metrics: dict[str, Any]) -> None:
    """The metrics dict as a table; of the ids just the first."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in metrics.items():
        shown = f"{value[:2]} … {len(value)} in all" if isinstance(value, list) and len(value) > 2 else value
        table.add_row(name, str(shown))
    console.print(table)


def beat_fired(messages: Redis) -> str | None:
    """The id of a run that is finished; only beat has sent any so far."""
    for key in messages.scan_iter("celery-task-meta-*"):
        if b'"SUCCESS"' in (messages.get(key) or b""):
            return str(key.decode().removeprefix("celery-task-meta-"))
    return None


def play(enter: Callable[[Any], Any], folder: Path) -> None:
    """The three scenes; `enter` keeps a context manager open to the end."""
    coordination = enter(running_server())
    broker = enter(running_server())
    client: Redis = enter(coordination.client())
    environment = {
        "COORDINATION_REDIS_URL": coordination.url,
        "CELERY_BROKER_URL": f"{broker.url}/0",
        "CELERY_RESULT_BACKEND": f"{broker.url}/1",
        "CLEANUP_INTERVAL_SECONDS": str(INTERVAL_S),
        "CLEANUP_LOG_FILE": "",
    }
    os.environ |= environment  # before our app reads its settings
    from cleanup_tasks import app, cleanup

    console.rule("1. Beat fires, a worker cleans, the metrics come back")
    version = client.info("server")["valkey_version"]
    console.print(f"Valkey {version}; writing {TOTAL:,} coordinators, {ACTIVE} of them alive")
    write_acceptance_data(client, TOTAL, ACTIVE)
    check("keys before", client.dbsize(), TOTAL * KEYS_EACH)
    stack: Stack = enter(Stack(environment, folder))
    console.print("starting a worker and a beat …")
    stack.start_worker()
    stack.start_beat()
    messages: Redis = enter(broker.client(db=1))
    wait_until(lambda: beat_fired(messages), "a run that beat fired is finished")
    stack.stop("beat")
    result = app.AsyncResult(beat_fired(messages))
    metrics = result.get(timeout=30)
    console.print(f"task {result.name}, {result.state}, read back from the result backend:")
    show(metrics)
    check("keysDeleted", metrics["keysDeleted"], DOOMED)
    check("implementation", metrics["implementation"], "lua")
    check("keys of the living that stayed", client.dbsize(), KEPT)

    console.rule("2. cleanup.delay(dry_run=True)")
    write_acceptance_data(client, TOTAL, ACTIVE)
    metrics = cleanup.delay(dry_run=True).get(timeout=30)
    check("dryRun", metrics["dryRun"], True)
    check("keysDeleted (that would go)", metrics["keysDeleted"], DOOMED)
    check("keys after, all of them", client.dbsize(), DOOMED + KEPT)

    console.rule("3. EVALSHA forbidden by ACL: the second task does the work")
    client.execute_command("ACL", "SETUSER", "default", "-evalsha")  # type: ignore[no-untyped-call]
    result = cleanup.delay()
    metrics = result.get(timeout=30)
    check("task that ended the run", result.name, "cleanup_tasks.cleanup_fallback")
    check("implementation", metrics["implementation"], "python")
    check("keysDeleted", metrics["keysDeleted"], DOOMED)
    check("keys of the living that stayed", client.dbsize(), KEPT)
    console.print(f"  fallbackReason: {metrics['fallbackReason']}")


def main() -> int:
    """Play the demo; 0, or not 0 with a clear message. It leaves no process and no file behind."""
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cleanup-demo-"))
            with interruptible():
                play(stack.enter_context, Path(folder))
    except KeyboardInterrupt:
        console.print("\n[yellow]Interrupted; everything is stopped.[/]")
        return 130
    except (CheckFailed, TimeoutError, RuntimeError) as failure:
        console.print(f"  [red]✗[/] {failure}", markup=True)
        return 1
    console.rule("[green]All as it should be; everything is stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
