"""The command's options, and what it does with them: options -> sweeps -> output."""

import json
import sys
from typing import get_args

import click

from cleanup_tasks.cli.explain import explain
from cleanup_tasks.cli.listing import Found, find, listing
from cleanup_tasks.cli.options import DURATION, METRICS_FILE, REDIS_URL, CommandWithSettings, SettingOption
from cleanup_tasks.cli.output import Style, console, show_log
from cleanup_tasks.cli.overview import overview, sum_of
from cleanup_tasks.cli.selection import selected
from cleanup_tasks.cli.stopping import Stopping
from cleanup_tasks.cli.streams import failure_of_stdout
from cleanup_tasks.cli.summary import summary
from cleanup_tasks.cli.sweeping import ERRORS, NO_CONNECTION, Ended, exit_status, sweep_each
from cleanup_tasks.configuration.arguments import check_arguments, options_of
from cleanup_tasks.configuration.misspelt import warn_of_unknown_variables
from cleanup_tasks.reporting.durations import EXAMPLES, in_words
from cleanup_tasks.reporting.log import about, logger
from cleanup_tasks.reporting.metrics import METRICS
from cleanup_tasks.reporting.metrics_file import MetricsFile
from cleanup_tasks.reporting.report import REQUESTED
from cleanup_tasks.schedule import time_limits
from cleanup_tasks.servers import url
from cleanup_tasks.sweep.options import Options, OrphansMode

#: Coordinators beat every 5 to 10 seconds; a pause of the machine or the network is soon longer than that.
SHORT_THRESHOLD_S = 60


@click.command(cls=CommandWithSettings, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dry-run", is_flag=True, help="Delete nothing; report what a real run would delete.")
@click.option(
    "--explain",
    "wanted",
    is_flag=False,
    flag_value="",
    metavar="[ID]",
    help="Show what a sweep would do and why, of everybody or of one coordinator; delete nothing.",
)
@click.option("--fallback", is_flag=True, help="Use the Python engine, which needs no Lua scripts in Redis.")
@click.option(
    "--stale-threshold",
    cls=SettingOption,
    variable="CLEANUP_STALE_THRESHOLD_SECONDS",
    value=lambda settings: in_words(settings.cleanup_stale_threshold_seconds),
    type=DURATION,
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
    value=lambda settings: url.parse(settings.coordination_url),  # shown without the login
    type=REDIS_URL,
    metavar="URL",
    help="The coordination Redis.",
)
@click.option(
    "--target",
    "names",
    multiple=True,
    metavar="NAME",
    help="A configured coordination Redis; may be given several times.",
)
@click.option("--all-targets", is_flag=True, help="Clean every configured Redis, some at the same time.")
@click.option(
    "--list-targets", is_flag=True, help="Show every configured Redis and whether it answers; clean none."
)
@click.option("--force", is_flag=True, help="Delete even if everybody looks dead or Redis has just come up.")
@click.option(
    "--timeout",
    type=DURATION,
    metavar="DURATION",
    help="Stop after this time, and let the next run go on; 0 means no limit.  "
    "[default: 80 % of CLEANUP_INTERVAL_SECONDS]",
)
@click.option("--json", "as_json", is_flag=True, help="Print only the report, as JSON.")
@click.option(
    "--metrics-file",
    type=METRICS_FILE,
    metavar="PATH",
    help="Write the Prometheus metrics there, on top of what earlier runs wrote, for a node exporter's "
    "textfile collector (*.prom).",
)
@click.option(
    "--verbose",
    is_flag=True,
    help="Print the log, with a line for each coordinator and each key; with --explain, show everybody.",
)
@click.version_option(package_name="blocking-coordination-cleanup")
def command(
    dry_run: bool,
    wanted: str | None,
    fallback: bool,
    stale_threshold: int | None,
    orphans: str | None,
    force: bool,
    redis_url: str | None,
    names: tuple[str, ...],
    all_targets: bool,
    list_targets: bool,
    timeout: int | None,
    as_json: bool,
    metrics_file: MetricsFile | None,
    verbose: bool,
) -> None:
    """Remove what dead coordinators left in Redis, without touching a living one."""
    try:
        targets = selected(names, are_all=all_targets or list_targets, redis_url=redis_url)
        sweeps = [
            options_of(
                settings,
                check_arguments(
                    targets,
                    target=target,
                    dry_run=dry_run,
                    stale_threshold_seconds=stale_threshold,
                    orphans=orphans,
                    force=force,
                ),
                engine="python" if fallback else "lua",
                fallback_reason=f"{REQUESTED} by --fallback" if fallback else None,
                max_named=None if verbose else settings.cleanup_max_reported_ids,
            )
            for target, settings in targets.items()
        ]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if wanted is not None and metrics_file is not None:
        raise click.UsageError("--explain sweeps nothing, so there is nothing to write to --metrics-file")
    if wanted is not None and len(sweeps) > 1:
        raise click.UsageError("--explain is for one target")
    style, stderr = Style(as_json, verbose), console(stderr=True)
    show_log(style, stderr)
    warn_of_unknown_variables()
    if list_targets:
        sys.exit(_list(find(targets), style))
    for options in sweeps:
        _warn_of_short_threshold(options)
    if wanted is not None:
        sys.exit(explain(sweeps[0], wanted, style))
    usual_s = max(time_limits(options.interval_s)["soft_time_limit"] for options in sweeps)
    stopping = Stopping(usual_s if timeout is None else timeout)
    METRICS.watch({options.target: options.interval_s for options in sweeps})
    with stopping.on_signals():
        ended = sweep_each(sweeps, stopping, None if style.shows_log else stderr)
        _show(ended, style, are_several=all_targets or len(names) > 1)
        is_written = metrics_file is None or _write(metrics_file)
    status = exit_status(ended, stopping)
    sys.exit(status if is_written else status or ERRORS)


def _list(found: list[Found], style: Style) -> int:
    """Show where the targets are; returns the exit status."""
    if style.as_json:
        print(json.dumps([each.as_json() for each in found], indent=2), flush=True)
    else:
        console().print(listing(found))
    return 0 if all(each.server for each in found) else NO_CONNECTION


def _show(ended: list[Ended], style: Style, *, are_several: bool) -> None:
    if style.as_json:
        reports = [each.report.metrics() for each in ended if each.connected or are_several]
        for shown in [reports] if are_several else reports:
            print(json.dumps(shown, indent=2), flush=True)
    elif style.is_for_people:
        out = console()
        # where there was no connection the error has said it all
        summaries = [summary(each) for each in ended if each.connected]
        for table in [overview(ended)] if are_several else summaries:
            out.print(table)
    elif are_several:
        logger.info("%s", sum_of(ended))
    if failure := failure_of_stdout():
        logger.error("Standard output can't be written: %s", failure)


def _warn_of_short_threshold(options: Options) -> None:
    if options.threshold_s < SHORT_THRESHOLD_S:
        with about(options.target):
            logger.warning(
                "The threshold is only %s: a coordinator that is silent for longer counts as dead, even if "
                "it is only slow",
                in_words(options.threshold_s),
            )


def _write(metrics_file: MetricsFile) -> bool:
    """Whether the metrics are in the file; somebody waits for them."""
    try:
        metrics_file.add(METRICS)
    except (OSError, ValueError) as error:
        logger.error("Metrics file can't be written: %s", error)
        return False
    return True
