"""What a sweep did, in a few lines for people."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cleanup_tasks.cli.sweeping import Ended
from cleanup_tasks.reporting.durations import in_words
from cleanup_tasks.reporting.log import not_noted, utc
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules.staleness import EXPLANATIONS

DRY_RUN = "[DRY-RUN]"


def summary(ended: Ended) -> RenderableType:
    """Two to six lines: what was checked and where, what went, what stayed and what can be done about it."""
    grid = Table.grid(padding=(0, 2))
    for name, text in _rows(ended):
        dry_run = [Text(DRY_RUN, "yellow")] if ended.report.dry_run else []
        grid.add_row(*dry_run, Text(name, "bold"), Text(text))
    return grid


def _rows(ended: Ended) -> list[tuple[str, str]]:
    report = ended.report
    rows = [("Redis", str(ended.options.address))]
    if report.skipped:
        return [*rows, ("Skipped", f"{report.skipped}; nothing was done")]
    rows += [("Checked", _checked(ended)), ("Would delete" if report.dry_run else "Deleted", _deleted(ended))]
    if report.held:
        rows.append(("Held", f"{report.held}; {_end_of_hold(report)}"))
    if not (report.complete or report.held):
        steps = amount(report.cleanup_errors, "step")
        unknown = f"{steps} given up or without an answer; " if report.cleanup_errors else ""
        rows.append(("Unfinished", f"{unknown}the next run does the rest"))
    if report.revived_coordinators:
        rows.append(
            (
                "Kept",
                f"{amount(report.revived_coordinators, 'coordinator')} whose values have changed meanwhile",
            )
        )
    if report.unreadable_heartbeats:
        reasons = "\n".join(
            f"{number:,}: {words}"
            for reason, words in EXPLANATIONS.items()
            if (number := report.unreadable_by_reason.get(reason))
        )
        rows.append(("Unreadable", f"{reasons}; kept, see --explain"))
    if report.orphaned_coordinators_found:
        rows.append(("Orphans", _orphans(ended)))
    return rows


def _end_of_hold(report: Report) -> str:
    if report.dry_run:  # which notes no hold, so nothing has begun that would end
        return "a real run would also delete nothing, unless you add --force"
    in_time = f"at {utc(report.held_until_ms)}, or " if report.held_until_ms else ""
    return f"the cleanup goes on {in_time}at once with --force"


def _checked(ended: Ended) -> str:
    report = ended.report
    counted = [
        (report.active_coordinators, "active"),
        (report.stale_coordinators_found, "stale"),
        (report.unreadable_heartbeats, "unreadable"),
    ]
    kinds = ", ".join(f"{number:,} {kind}" for number, kind in counted if number)
    coordinators = amount(report.total_coordinators_checked, "coordinator")
    return f"{coordinators} in {in_words(report.execution_time_ms / 1000)}" + (f": {kinds}" if kinds else "")


def _deleted(ended: Ended) -> str:
    report = ended.report
    owners = [(report.reaped, "stale"), (report.orphaned_coordinators_reaped, "orphaned")]
    whose = " and ".join(f"{number:,} {kind}" for number, kind in owners if number)
    if not (whose or report.keys_deleted):
        return "nothing, as far as is known" if report.cleanup_errors else "nothing"
    return amount(report.keys_deleted, "key") + (f" of {whose} coordinators" if whose else "")


def _orphans(ended: Ended) -> str:
    report = ended.report
    found = f"{report.orphaned_coordinators_found:,} found"
    if ended.options.orphans != "reap":
        return f"{found}: see --explain, remove with --orphans reap"
    text = f"{found}, {report.orphaned_coordinators_reaped:,} {'to reap' if report.dry_run else 'reaped'}"
    if report.next_orphan_due_seconds is not None:
        due = in_words(report.next_orphan_due_seconds)
        text += f"; {report.orphaned_coordinators_waiting:,} seen too recently (due in {due})"
    if report.orphans_not_noted:
        text += f"; {not_noted(report)}"
    return text


def amount(number: int, noun: str) -> str:
    """A number of things, as people write it."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
