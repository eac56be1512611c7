"""Where the command begins; ``python -m cleanup_tasks`` is the command too."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Nothing is under way while the rest is loaded, so Ctrl-C ends it at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from cleanup_tasks.cli.command import command
from cleanup_tasks.cli.streams import use_streams_that_never_fail


def main() -> None:
    """Run the command; it ends the process."""
    use_streams_that_never_fail()
    command(prog_name="cleanup-blocking-coordination")


if __name__ == "__main__":
    main()
