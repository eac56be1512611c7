"""The command's options, and what it does with them: options -> sweeps -> output."""

import contextlib
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
from pydantic import SecretStr
from rich.console import Console

from cleanup_tasks.arguments import check_arguments, options_of
from cleanup_tasks.cli.output import LogLines, show_log
from cleanup_tasks.cli.stopping import Stopping
from cleanup_tasks.cli.streams import failure_of_stdout
from cleanup_tasks.cli.sweeping import ERRORS, exit_status, sweep_each
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.metrics import METRICS, REGISTRY
from cleanup_tasks.reporting.report import DEFAULT_TARGET
from cleanup_tasks.settings import Settings, load_settings
from cleanup_tasks.sweep.options import OrphansMode


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
@click.option("--force", is_flag=True, help="Go on even if nobody seems to be alive.")
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
def command(
    dry_run: bool,
    fallback: bool,
    stale_threshold: int | None,
    orphans: str | None,
    force: bool,
    redis_url: str | None,
    as_json: bool,
    metrics_file: Path | None,
    verbose: bool,
) -> None:
    """Remove what dead coordinators left in Redis, without touching a living one.

    Exit status: 0 success, 1 no connection to Redis (nothing was done), 2 errors during the cleanup, or
    a wrong option, 3 held: nobody seems to be alive, so nothing was deleted. Settings come from the
    environment; see README.
    """
    try:
        given: dict[str, SecretStr | None] = {}
        if redis_url is not None:
            given = {"coordination_redis_url": SecretStr(redis_url), "coordination_redis_url_file": None}
        settings = load_settings(**given)
        arguments = check_arguments(
            dry_run=dry_run, stale_threshold_seconds=stale_threshold, orphans=orphans, force=force
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    show_log(LogLines(as_json=as_json), verbose=verbose)
    options = options_of(
        settings,
        arguments,
        engine="python" if fallback else "lua",
        fallback_reason="requested by --fallback" if fallback else None,
        owner=uuid.uuid4().hex,
        max_named=None if verbose else settings.cleanup_max_reported_ids,
    )
    stopping = Stopping()
    with stopping.on_signals(), _metrics_file(metrics_file, settings):
        ended = sweep_each([options], stopping, Console(stderr=True))
        for each in ended:
            if as_json and each.connected:
                print(json.dumps(each.report.metrics(), indent=2))
        if failure := failure_of_stdout():
            logger.error("Standard output can't be written: %s", failure)
    sys.exit(exit_status(ended, stopping))


@contextlib.contextmanager
def _metrics_file(path: Path | None, settings: Settings) -> Iterator[None]:
    """Go on from the file's figures, and write it when the sweep has ended, however it did.

    Failing to write ends the command with status 2: somebody waits for that file.
    """
    if path is None:
        yield
        return
    METRICS.watch({DEFAULT_TARGET: settings.cleanup_interval_seconds})
    METRICS.continue_from(path)
    yield
    try:
        METRICS.write(path, REGISTRY)
    except OSError as error:
        logger.error("Metrics file can't be written: %s", error)
        sys.exit(ERRORS)
