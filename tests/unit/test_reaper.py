"""What a reaper takes note of: who has gone, and who stays."""

from collections.abc import Sequence

import pytest

from cleanup_tasks.engines.batch import Answer, Batch, EngineName
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.sweep.fleet import Due
from cleanup_tasks.sweep.reaper import Reaper


class Answers:
    """An engine that answers what it was given."""

    name: EngineName = "python"
    in_flight = 2

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = list(answers)
        self._sent: list[Batch] = []

    @property
    def pending(self) -> int:
        return len(self._sent)

    def open(self) -> None:
        """Nothing is needed."""

    def send(self, batches: Sequence[Batch]) -> None:
        self._sent += batches

    def receive(self) -> tuple[Batch, Answer]:
        return self._sent.pop(0), self._answers.pop(0)

    def close(self) -> None:
        """Nothing was opened."""


def batch_for(*subjects: object) -> Batch:
    batch = Batch(1)
    for subject in subjects:
        batch.add_group((), [b"key"], subject)
    return batch


@pytest.mark.parametrize("goes_first", [True, False])
def test_who_has_gone_is_not_kept_though_a_record_of_it_was_given_up(goes_first: bool) -> None:
    """Else a later generation would take it for one that is protected, and leave its records for good."""
    a, f = Due(b"a", b"1", b""), Due(b"f", b"1", b"")
    steps = [(batch_for((f, a)), Answer(failed=[0])), (batch_for(a), Answer(1))]
    if goes_first:
        steps.reverse()
    reaper = Reaper(Answers([answer for _, answer in steps]), Report(stale_threshold_seconds=600), None)
    reaper.reap((batch for batch, _ in steps), lambda _done: None, lambda _reaped: None)
    assert reaper.kept == {b"f"}
    assert a.has_gone
