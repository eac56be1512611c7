"""The command's options, and what it does with them: options -> sweeps -> output."""

import json
import sys
from typing import get_args

import click
from pydantic import SecretStr
from rich.console import Console

from cleanup_tasks.arguments import check_arguments, options_of
from cleanup_tasks.cli.explain import explain
from cleanup_tasks.cli.options import (
    CommandWithSettings,
    Duration,
    MetricsFileType,
    RedisUrl,
    SettingOption,
    address_of,
    threshold_of,
)
from cleanup_tasks.cli.output import Style, show_log
from cleanup_tasks.cli.stopping import Stopping
from cleanup_tasks.cli.streams import failure_of_stdout
from cleanup_tasks.cli.summary import summary
from cleanup_tasks.cli.sweeping import ERRORS, Ended, exit_status, sweep_each
from cleanup_tasks.reporting.durations import EXAMPLES, in_words
from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.metrics import METRICS
from cleanup_tasks.reporting.metrics_file import MetricsFile
from cleanup_tasks.settings import load_settings
from cleanup_tasks.sweep.options import REQUESTED, OrphansMode

#: Coordinators beat every 5 to 10 seconds; a pause of the machine or the network is soon longer than that.
SHORT_THRESHOLD_S = 60


@click.command(cls=CommandWithSettings, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dry-run", is_flag=True, help="Change nothing; report what a real run would do.")
@click.option(
    "--explain",
    "wanted",
    is_flag=False,
    flag_value="",
    metavar="[ID]",
    help="Show what a sweep would do and why, of everybody or of one coordinator; delete nothing.",
)
@click.option("--fallback", is_flag=True, help="Use the Python engine, which needs no scripting.")
@click.option(
    "--stale-threshold",
    cls=SettingOption,
    variable="CLEANUP_STALE_THRESHOLD_SECONDS",
    value=threshold_of,
    type=Duration(),
    metavar="DURATION",
    help=f"Silence after which a coordinator counts as dead: {EXAMPLES}.",
)
@click.option(
    "--orphans",
    cls=SettingOption,
    variable="CLEANUP_ORPHANS",
    value=lambda settings: settings.cleanup_orphans,
    type=click.Choice(get_args(OrphansMode)),
    help="What to do about coordinators without a heartbeat.",
)
@click.option(
    "--redis-url",
    cls=SettingOption,
    variable="COORDINATION_REDIS_URL",
    value=address_of,
    type=RedisUrl(),
    metavar="URL",
    help="The coordination Redis.",
)
@click.option("--force", is_flag=True, help="Go on even if nobody seems to be alive.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics alone, as JSON.")
@click.option(
    "--metrics-file",
    type=MetricsFileType(),
    metavar="PATH",
    help="Write the Prometheus metrics there, on top of what earlier runs wrote, for a node exporter's "
    "textfile collector (*.prom).",
)
@click.option("--verbose", is_flag=True, help="A line for each coordinator and each key.")
@click.version_option(package_name="blocking-coordination-cleanup")
def command(
    dry_run: bool,
    wanted: str | None,
    fallback: bool,
    stale_threshold: int | None,
    orphans: str | None,
    force: bool,
    redis_url: str | None,
    as_json: bool,
    metrics_file: MetricsFile | None,
    verbose: bool,
) -> None:
    """Remove what dead coordinators left in Redis, without touching a living one."""
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
    if wanted is not None and metrics_file is not None:
        raise click.UsageError("--explain sweeps nothing, so there is nothing to write to --metrics-file")
    style, stderr = Style(as_json, verbose), Console(stderr=True)
    show_log(style, stderr)
    options = options_of(
        settings,
        arguments,
        engine="python" if fallback else "lua",
        fallback_reason=f"{REQUESTED} by --fallback" if fallback else None,
        max_named=None if verbose else settings.cleanup_max_reported_ids,
    )
    _warn_of_short_threshold(options.threshold_s)
    if wanted is not None:
        sys.exit(explain(options, wanted, style))
    stopping = Stopping()
    METRICS.watch({options.target: options.interval_s})
    with stopping.on_signals():
        ended = sweep_each([options], stopping, None if style.shows_log else stderr)
        _show(ended, style)
        is_written = metrics_file is None or _write(metrics_file)
    status = exit_status(ended, stopping)
    sys.exit(status if is_written else status or ERRORS)


def _show(ended: list[Ended], style: Style) -> None:
    for each in ended:
        if style.as_json and each.connected:
            print(json.dumps(each.report.metrics(), indent=2), flush=True)
        if style.is_for_people:
            Console().print(summary(each))
    if failure := failure_of_stdout():
        logger.error("Standard output can't be written: %s", failure)


def _warn_of_short_threshold(threshold_s: int) -> None:
    if threshold_s < SHORT_THRESHOLD_S:
        logger.warning(
            "The threshold is %s: a coordinator that is only slow for so long counts as dead",
            in_words(threshold_s),
        )


def _write(metrics_file: MetricsFile) -> bool:
    """Whether the metrics are in the file; somebody waits for them."""
    try:
        metrics_file.add(METRICS)
    except (OSError, ValueError) as error:
        logger.error("Metrics file can't be written: %s", error)
        return False
    return True
