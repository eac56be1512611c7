"""What attempts of the same task hand on, and what a report makes of it."""

import pytest

from cleanup_tasks.attempt import PREVIOUS_HEADER, Attempt
from cleanup_tasks.reporting.metrics import FIGURES
from cleanup_tasks.reporting.report import HANDED_ON, PreviousAttempts, Report


def test_every_counter_is_handed_on() -> None:
    """A counter that is not would begin anew, or never grow."""
    forgotten = FIGURES.keys() - HANDED_ON.keys()
    assert not forgotten, "of type Done or Found in reporting/report.py"


@pytest.mark.parametrize(("field", "kind"), HANDED_ON.items())
def test_what_was_done_adds_up_and_what_was_found_counts_once(field: str, kind: str) -> None:
    report = Report.model_validate({"stale_threshold_seconds": 1, field: 1})
    report.add(PreviousAttempts({field: 2}))
    assert getattr(report, field) == (3 if kind == "done" else 1)


def test_who_is_gone_is_not_found_again_but_was_checked() -> None:
    report = Report(stale_threshold_seconds=1, total_coordinators_checked=5, complete=True)
    report.add(PreviousAttempts(reaped=2, orphaned_coordinators_reaped=3))
    found = (report.total_coordinators_checked, report.stale_coordinators_found)
    assert (*found, report.stale_coordinator_ids_omitted, report.orphaned_coordinators_found) == (7, 2, 2, 3)
    assert report.complete
    report.add(PreviousAttempts(cleanup_errors=1))
    assert not report.complete


def test_a_message_hands_on_each_of_them() -> None:
    previous = PreviousAttempts({field: number for number, field in enumerate(HANDED_ON, start=1)})
    headers = Attempt(previous=previous).headers()
    # any serializer takes it
    assert type(headers[PREVIOUS_HEADER]) is dict
    assert Attempt.read(headers).previous == previous


def test_a_message_of_another_version_is_read() -> None:
    said = {"keys_deleted": 5, "reaped": -1, "cleanup_errors": "many", "of_a_later_version": 7}
    assert Attempt.read({PREVIOUS_HEADER: said}).previous == PreviousAttempts(keys_deleted=5)
