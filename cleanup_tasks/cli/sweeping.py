"""Sweeps one after the other, what became of each, and the exit status."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from redis.exceptions import RedisError
from rich.console import Console

from cleanup_tasks.cli.progress import progress_bar
from cleanup_tasks.cli.stopping import Stopping
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.reporting.log import about, logger
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.sweep.options import Options, no_progress
from cleanup_tasks.sweep.sweep import Sweep

#: Exit statuses, the original's. A signal's is 128 and its number, as the shell's.
NO_CONNECTION = 1
ERRORS = 2
#: Nothing was deleted, since nobody seemed to be alive.
HELD = 3
SIGNALLED = 128
#: From the best to the worst.
_STATUSES = (0, HELD, NO_CONNECTION, ERRORS)


@dataclass(frozen=True, slots=True)
class Ended:
    """A sweep that has ended."""

    options: Options
    report: Report
    #: Whether the server answered at all; where it did not, nothing was done.
    connected: bool
    status: int


def sweep_each(sweeps: Sequence[Options], stopping: Stopping, bar: Console | None = None) -> list[Ended]:
    """Sweep with these options, one after the other, until all have ended or a signal comes.

    Args:
        sweeps: the options of each.
        stopping: what signals have asked for.
        bar: where a progress bar is shown, if that is a terminal; None: nowhere.
    """
    ended: list[Ended] = []
    for options in sweeps:
        if stopping.signal is None:
            with about(options.target):
                ended.append(_sweep(options, stopping, bar))
    return ended


def exit_status(ended: Sequence[Ended], stopping: Stopping) -> int:
    """The exit status of the command: a signal's, else the worst of the sweeps'."""
    if stopping.signal is not None:
        return SIGNALLED + stopping.signal
    return max((each.status for each in ended), key=_STATUSES.index, default=0)


def _sweep(options: Options, stopping: Stopping, bar: Console | None) -> Ended:
    begun = [Sweep(options)]

    def begin(sweep: Sweep) -> None:
        stopping.begin(sweep)
        begun.append(sweep)

    status = 0
    try:
        with progress_bar(bar, dry_run=options.dry_run) as show:

            def progress(what: str, done: int, total: int) -> None:
                stopping.check()
                show(what, done, total)

            watched = replace(options, progress=progress, wants_total=show is not no_progress)
            sweep_or_fall_back(watched, begin)
    except RedisError:
        status = ERRORS if begun[-1].connected else NO_CONNECTION
    except Exception:
        logger.debug("Unexpected", exc_info=True)  # its text was logged where the sweep ended
        status = ERRORS
    except KeyboardInterrupt:
        logger.error("Cleanup interrupted")  # the exit status is the signal's
    report = begun[-1].report
    if report.held and not status:
        status = HELD
    if not (status or report.complete or report.skipped):
        status = ERRORS
    return Ended(options, report, begun[-1].connected, status)
