"""What became of several targets: a line for each, and their sum."""

from collections.abc import Sequence

from rich.table import Table

from cleanup_tasks.cli.summary import amount
from cleanup_tasks.cli.sweeping import ERRORS, HELD, NO_CONNECTION, Ended
from cleanup_tasks.reporting.durations import in_words

_RESULTS = {HELD: "held", NO_CONNECTION: "no connection", ERRORS: "errors"}


def overview(ended: Sequence[Ended]) -> Table:
    """For people."""
    dry_run = any(each.report.dry_run for each in ended)
    deleted = "Would delete" if dry_run else "Deleted"
    table = table_of("Target", "Checked", "Stale", deleted, "Time", "Result")
    for each in ended:
        report = each.report
        result = _RESULTS.get(each.status) or ("skipped" if report.skipped else "done")
        took = in_words(report.execution_time_ms / 1000)
        table.add_row(report.target, *_numbers([each]), took, f"[DRY-RUN] {result}" if dry_run else result)
    table.add_section()
    table.add_row(amount(len(ended), "target"), *_numbers(ended), "", total_result(ended))
    return table


def sum_of(ended: Sequence[Ended]) -> str:
    """The sum as a line of the log."""
    checked, stale, deleted = _numbers(ended)
    dry, would = ("[DRY-RUN] ", " (would be)") if any(each.report.dry_run for each in ended) else ("", "")
    return (
        f"{dry}{amount(len(ended), 'target')}, {total_result(ended)}: {checked} coordinators checked, "
        f"{stale} stale, {deleted} keys deleted{would}"
    )


def total_result(ended: Sequence[Ended]) -> str:
    """How many of the targets are not as they should be, and what they are instead."""
    counts = [(sum(each.status == status for each in ended), name) for status, name in _RESULTS.items()]
    return ", ".join(f"{number} {name}" for number, name in counts if number) or "all done"


def _numbers(ended: Sequence[Ended]) -> list[str]:
    reports = [each.report for each in ended]
    checked = sum(report.total_coordinators_checked for report in reports)
    stale = sum(report.stale_coordinators_found for report in reports)
    return [f"{number:,}" for number in (checked, stale, sum(report.keys_deleted for report in reports))]


def table_of(*columns: str) -> Table:
    """An empty table for people; figures are aligned at the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column in ("Checked", "Stale", "Deleted", "Would delete", "Time")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    return table
