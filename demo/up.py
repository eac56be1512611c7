"""make up: the whole stack, to keep running until Ctrl-C."""

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from cleanup_tasks.settings import InvalidSettings, load_settings
from demo.dataset import write_acceptance_data
from demo.servers import interruptible, running_server
from demo.stack import Stack

#: Flower's own variable, and its default.
FLOWER_PORT = int(os.environ.get("FLOWER_PORT", "5555"))

console = Console(highlight=False)


def run(stack: ExitStack, folder: Path) -> NoReturn:
    """Start servers (unless the coordination Redis is given), worker, beat and Flower; wait for Ctrl-C."""
    settings = ("CLEANUP_", "CELERY_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(settings)}
    given = os.environ.get("COORDINATION_REDIS_URL")
    if given:
        environment["COORDINATION_REDIS_URL"] = given
        console.print("Coordination Redis: yours, as COORDINATION_REDIS_URL says")
    else:
        server = stack.enter_context(running_server())
        environment["COORDINATION_REDIS_URL"] = server.url
        environment.setdefault("CLEANUP_INTERVAL_SECONDS", "30")
        with server.client() as client:
            write_acceptance_data(client, 1_000, 10)
        console.print(f"Coordination Redis: embedded, {server.url}, with 990 dead coordinators and 10 alive")
    if "CELERY_BROKER_URL" not in environment:
        broker = stack.enter_context(running_server())
        environment |= {"CELERY_BROKER_URL": f"{broker.url}/0", "CELERY_RESULT_BACKEND": f"{broker.url}/1"}
        console.print(f"Broker and results: embedded, {broker.url}")
    processes = stack.enter_context(Stack(environment, folder))
    for name, start in (
        ("worker", processes.start_worker),
        ("beat", processes.start_beat),
        ("Flower", lambda: processes.start_flower(FLOWER_PORT)),
    ):
        start()
        console.print(f"{name} is up")
    console.print(f"Dashboard: http://127.0.0.1:{FLOWER_PORT}/tasks")
    console.print("[green]Everything is up.[/] Ctrl-C ends it.")
    processes.watch()


def main() -> int:
    """Run until Ctrl-C; 0 then, 1 where something doesn't start."""
    try:
        load_settings()
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cleanup-up-"))
            with interruptible():
                run(stack, Path(folder))
    except KeyboardInterrupt:
        console.print("\nEverything is stopped.")
        return 0
    except (InvalidSettings, TimeoutError, RuntimeError) as failure:
        console.print(f"[red]✗[/] {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
