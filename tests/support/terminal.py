"""The command on a terminal of 80 columns: all that it wrote there, and what is on the screen in the end."""

import contextlib
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import ioctl

from tests.support.command import COMMAND

COLUMNS = 80
_PARTS = re.compile(r"(\x1b\[[?0-9;]*[A-Za-z]|\r|\n)")


@dataclass
class Terminal:
    """A terminal, and the process that runs on it."""

    process: subprocess.Popen[bytes]
    written: str = ""
    #: The end that a person has: what is written there is typed.
    keyboard: int = -1

    def read(self) -> str:
        """All that is written until the process has ended; fails where that takes longer than a minute."""
        with contextlib.suppress(OSError):  # how a terminal says that the other end is closed
            while chunk := os.read(self.keyboard, 65536):
                self.written += chunk.decode()
        self.process.wait(timeout=60)
        return self.written

    def hang_up(self) -> None:
        """Close the terminal, as a window that is closed or a connection that breaks does."""
        os.close(self.keyboard)
        self.keyboard = -1

    @property
    def screen(self) -> list[str]:
        """The lines on the screen, without those that are empty."""
        return [line for line in map(str.rstrip, screen_of(self.written)) if line]


@contextlib.contextmanager
def on_terminal(url: str, *arguments: str, **environment: str) -> Iterator[Terminal]:
    """Start the command with a terminal as its standard input, output and error; it ends with the block."""
    main, terminal = pty.openpty()
    ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [COMMAND, *arguments],
        env={
            **os.environ,
            "COORDINATION_REDIS_URL": url,
            "CLEANUP_LOG_FILE": "",
            "TERM": "xterm",
            **environment,
        },
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # its own: closing it sends SIGHUP
    )
    os.close(terminal)
    shown = Terminal(process, keyboard=main)
    try:
        yield shown
    finally:
        process.kill()
        process.wait()
        if shown.keyboard >= 0:
            shown.hang_up()


def screen_of(written: str) -> list[str]:
    """The lines that a terminal shows after this; of its codes it knows those that a progress bar uses."""
    lines, row, column = [""], 0, 0
    for part in _PARTS.split(written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b["):
            number = int(part[2:-1] or 1) if part[2:-1].isdecimal() or part[2:-1] == "" else 1
            if part[-1] == "A":
                row = max(0, row - number)
            elif part[-1] == "K":
                lines[row] = ""
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return lines


def run_on_terminal(url: str, *arguments: str, **environment: str) -> Terminal:
    """Run the command on a terminal to its end."""
    with on_terminal(url, *arguments, **environment) as terminal:
        terminal.read()
    return terminal
