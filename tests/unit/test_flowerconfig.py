"""What Flower's tasks page says of a run, in one line; `deploy/test_flower.py` looks at the page itself."""

from typing import Any

import pytest
from celery.events.state import Task

from cleanup_tasks.reporting.report import Report
from flowerconfig import format_task


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "12 keys deleted · 2/5 stale"),
        ({"dry_run": True}, "DRY RUN · 12 keys · 2/5 stale"),
        ({"skipped": "another sweep is running"}, "SKIPPED: another sweep is running"),
        ({"held": "nobody beats"}, "HELD: nobody beats"),
        ({"held": "nobody beats", "dry_run": True}, "DRY RUN · HELD: nobody beats"),
        ({"complete": False, "cleanup_errors": 1}, "INCOMPLETE · 12 keys deleted · 2/5 stale · 1 error"),
        ({"implementation": "python"}, "FALLBACK · 12 keys deleted · 2/5 stale"),
        ({"orphaned_coordinators_found": 3}, "12 keys deleted · 2/5 stale · 3 orphans"),
        ({"unreadable_heartbeats": 1}, "12 keys deleted · 2/5 stale · 1 unreadable"),
    ],
)
def test_a_run_in_one_line(fields: dict[str, Any], line: str) -> None:
    report = Report(stale_threshold_seconds=600)
    found = {
        "complete": True,
        "keys_deleted": 12,
        "stale_coordinators_found": 2,
        "total_coordinators_checked": 5,
    }
    for name, value in (found | fields).items():
        setattr(report, name, value)
    task = Task(uuid="1", name="cleanup_tasks.cleanup", state="SUCCESS", result=repr(report.metrics()))
    assert (format_task(task).name, task.result) == ("cleanup", line)
