"""Pictures of what the command shows on a terminal: docs/command-*.svg, by ``make pictures``."""

import io
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from redis import Redis
from rich.console import Console
from rich.text import Text

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.servers import running_server
from demo.stack import ROOT, without_settings

COLUMNS = 80
COMMAND = "cleanup-blocking-coordination"
#: The name of each picture, and the command's arguments, in the order in which they run.
PICTURES = {"explain": "--explain", "dry-run": "--dry-run", "run": ""}


def write_fleet(client: Redis) -> None:
    """A small fleet: three who work, two who are dead, a record between the two kinds, and an orphan."""
    write_coordinators(client, [b"planner", b"coder-1", b"coder-2"], ACTIVE_AGE_MS)
    # half a minute more, so that the ages always have two units
    write_coordinators(client, [b"coder-3", b"tester"], STALE_AGE_MS + 30_000)
    sent_ms = server_time_ms(client) - STALE_AGE_MS
    client.set(keys.IDEMPOTENCY + b"tester:planner:result:1:%d" % sent_ms, "1")
    client.set(keys.signal(b"reviewer"), "stop")


def shown_on_a_terminal(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command writes to a terminal of 80 columns, with its colours, and without the progress bar."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        env={**environment, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    written = bytearray()
    try:
        while part := os.read(ours, 65_536):
            written += part
    except OSError:  # how a terminal that nobody has open any more ends, on Linux
        pass
    finally:
        os.close(ours)
        process.wait(60)
    return written.decode().replace("\r\n", "\n")


def make_pictures(folder: Path) -> None:
    """Run the command on a small fleet, and draw what it shows."""
    program = str(Path(sys.executable).with_name(COMMAND))
    with running_server() as server, server.client() as client:
        write_fleet(client)
        settings = {"COORDINATION_REDIS_URL": f"{server.url}/0", "CLEANUP_LOG_FILE": ""}
        environment = without_settings(os.environ) | settings
        for name, arguments in PICTURES.items():
            output = shown_on_a_terminal([program, *shlex.split(arguments)], environment)
            draw(f"{COMMAND} {arguments}".strip(), output, folder / f"command-{name}.svg")


def draw(command: str, output: str, path: Path) -> None:
    """Write an SVG of a terminal with a command and what it showed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), command))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="", unique_id="terminal")
    # the reader's own font, and nothing that is fetched from elsewhere
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    make_pictures(ROOT / "docs")
