"""The command cleanup-blocking-coordination: one sweep in the foreground, no worker needed."""

import contextlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
from pydantic import SecretStr
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cleanup_tasks.arguments import check_arguments, options_of
from cleanup_tasks.fallback import sweep_or_fall_back
from cleanup_tasks.reporting.log import FORMAT, logger
from cleanup_tasks.reporting.metrics import METRICS, REGISTRY
from cleanup_tasks.servers.errors import ScriptingRefused
from cleanup_tasks.settings import Settings, load_settings
from cleanup_tasks.sweep.options import Options, OrphansMode, no_progress
from cleanup_tasks.sweep.options import Progress as ProgressCallback
from cleanup_tasks.sweep.sweep import Sweep

#: Exit statuses, the original's.
NO_CONNECTION = 1
ERRORS = 2
#: The shell's own for Ctrl-C.
INTERRUPTED = 130


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dry-run", is_flag=True, help="Change nothing; report what a real run would do.")
@click.option("--fallback", is_flag=True, help="Use the Python engine, which needs no scripting.")
@click.option(
    "--stale-threshold",
    type=int,
    metavar="SECONDS",
    help="Silence after which a coordinator counts as dead  [default: 600]",
)
@click.option(
    "--orphans",
    type=click.Choice(get_args(OrphansMode)),
    help="What to do about coordinators without a heartbeat.  [default: report]",
)
@click.option("--redis-url", metavar="URL", help="The coordination Redis; wins over the environment.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics alone, as JSON.")
@click.option(
    "--metrics-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Write the Prometheus metrics there, on top of what earlier runs wrote, for a node exporter's "
    "textfile collector (*.prom).",
)
@click.option("--verbose", is_flag=True, help="A line for each coordinator.")
@click.version_option(package_name="blocking-coordination-cleanup")
def main(
    dry_run: bool,
    fallback: bool,
    stale_threshold: int | None,
    orphans: str | None,
    redis_url: str | None,
    as_json: bool,
    metrics_file: Path | None,
    verbose: bool,
) -> None:
    """Remove what dead coordinators left in Redis, without touching a living one.

    Exit status: 0 success, 1 no connection to Redis (nothing was done), 2 errors during the cleanup, or
    a wrong option. Settings come from the environment; see README.
    """
    try:
        given = {} if redis_url is None else {"coordination_redis_url": SecretStr(redis_url)}
        settings = load_settings(**given)
        arguments = check_arguments(dry_run=dry_run, stale_threshold_seconds=stale_threshold, orphans=orphans)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _log_to_terminal(as_json, verbose)
    options = options_of(
        settings,
        arguments,
        engine="python" if fallback else "lua",
        fallback_reason="requested by --fallback" if fallback else None,
        owner=uuid.uuid4().hex,
        max_named=None if verbose else settings.cleanup_max_reported_ids,
    )
    with _metrics_file(metrics_file, settings):
        status, sweep = _sweep(options)
        if as_json and sweep.connected:
            _print(json.dumps(sweep.report.metrics(), indent=2))
    sys.exit(status)


@contextlib.contextmanager
def _metrics_file(path: Path | None, settings: Settings) -> Iterator[None]:
    """Go on from the file's figures, and write it when the sweep has ended, however it did.

    Failing to write ends the command with status 2: somebody waits for that file.
    """
    if path is None:
        yield
        return
    METRICS.continue_from(path)
    METRICS.interval.set(settings.cleanup_interval_seconds)
    yield
    try:
        METRICS.write(path, REGISTRY)
    except OSError as error:
        logger.error("Metrics file can't be written: %s", error)
        sys.exit(ERRORS)


def _sweep(options: Options) -> tuple[int, Sweep]:
    """Sweep with a progress bar where there is a terminal; returns the exit status and the last sweep."""
    sweeps = [Sweep(options)]
    try:
        with _progress() as progress:
            sweep_or_fall_back(replace(options, progress=progress), sweeps.append)
    except (RedisError, ScriptingRefused) as error:
        if not sweeps[-1].connected:
            logger.error("Redis connection failed: %s", error)
            logger.error("Cleanup aborted")
            return NO_CONNECTION, sweeps[-1]
        logger.error("Cleanup failed: %s", error)
        return ERRORS, sweeps[-1]
    except Exception as error:
        logger.error("Cleanup failed unexpectedly: %r", error)
        return ERRORS, sweeps[-1]
    except KeyboardInterrupt:
        logger.error("Cleanup interrupted")
        return INTERRUPTED, sweeps[-1]
    report = sweeps[-1].report
    return 0 if report.complete or report.skipped else ERRORS, sweeps[-1]


@contextlib.contextmanager
def _progress() -> Iterator[ProgressCallback]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield no_progress
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.completed} {task.fields[unit]}"),
    )
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        shown = bar.add_task("connecting", total=None, unit="")

        def update(what: str, done: int, total: int) -> None:
            unit = f"of {total} coordinators" if total else "keys"
            bar.update(shown, description=what, completed=done, total=total or None, unit=unit)

        yield update


class _Terminal(logging.Handler):
    """Lines on standard output; with --json only warnings, on standard error."""

    def __init__(self, as_json: bool) -> None:
        super().__init__(logging.WARNING if as_json else logging.NOTSET)
        self._as_json = as_json
        self.setFormatter(FORMAT)

    def emit(self, record: logging.LogRecord) -> None:
        _print(self.format(record), err=self._as_json)


def _print(text: str, *, err: bool = False) -> None:
    """A line for whoever reads on; where nobody does any more (``| head``) the sweep goes on all the same."""
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
        os.close(nowhere)


def _log_to_terminal(as_json: bool, verbose: bool) -> None:
    logger.addHandler(_Terminal(as_json))
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
