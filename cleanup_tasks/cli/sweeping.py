"""Sweeps, what became of each, and the exit status."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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

#: How many sweeps go on at the same time, each with memory of its own.
SIDE_BY_SIDE = 4
#: Exit statuses, the original's. A signal's is 128 and its number, as the shell's.
NO_CONNECTION = 1
ERRORS = 2
#: Nothing was deleted, since nobody seemed to be alive.
HELD = 3
SIGNALLED = 128
AFTER_INTERRUPTION = (
    ". What was deleted stays deleted. The next run reads everything again and deletes the rest."
)
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
    """Sweep with these options, some of them side by side, until all have ended or a signal comes.

    Args:
        sweeps: the options of each.
        stopping: what signals have asked for.
        bar: where the progress of a sweep that is alone is shown, if that is a terminal; None: nowhere.

    Returns:
        Those that have begun, in the order of `sweeps`.
    """
    if len(sweeps) == 1:
        ended = [_sweep_unless_stopped(sweeps[0], stopping, bar)]
    else:
        # a signal raises nothing in a thread of its own; each sweep is told at its next step
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            ended = list(pool.map(lambda options: _sweep_unless_stopped(options, stopping, None), sweeps))
    return [each for each in ended if each is not None]


def exit_status(ended: Sequence[Ended], stopping: Stopping) -> int:
    """The exit status of the command: a signal's, else the worst of the sweeps'."""
    if stopping.signal is not None:
        return SIGNALLED + stopping.signal
    return max((each.status for each in ended), key=_STATUSES.index, default=0)


def _sweep_unless_stopped(options: Options, stopping: Stopping, bar: Console | None) -> Ended | None:
    if stopping.signal is not None:
        return None
    with about(options.target):
        return _sweep(options, stopping, bar)


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
    except Exception as error:  # its text was logged where the sweep ended
        if not isinstance(error, RedisError):
            logger.debug("Unexpected", exc_info=True)
        status = ERRORS if begun[-1].connected else NO_CONNECTION
    except KeyboardInterrupt as interrupt:  # where that was a signal, the exit status is the signal's
        logger.error("Cleanup interrupted: %s%s", interrupt, "" if options.dry_run else AFTER_INTERRUPTION)
        status = ERRORS if begun[-1].connected else NO_CONNECTION
    report = begun[-1].report
    if report.held and not status:
        status = HELD
    if not (status or report.complete or report.skipped):
        status = ERRORS
    return Ended(options, report, begun[-1].connected, status)
