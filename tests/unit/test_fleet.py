"""What a generation takes of the worker's memory has a limit, however large the values are."""

import pytest

from cleanup_tasks.sweep import fleet
from cleanup_tasks.sweep.fleet import Due, Fleet


@pytest.mark.parametrize("value_bytes", [0, 100, 65_536, 10_000_000])
def test_a_generation_holds_no_more_bytes_than_it_may(
    monkeypatch: pytest.MonkeyPatch, value_bytes: int
) -> None:
    monkeypatch.setattr(fleet, "MAX_COORDINATOR_BYTES", 1_000_000)
    monkeypatch.setattr(fleet, "MIN_JUDGED_AGAIN", 10)
    everybody = {b"c%d" % number for number in range(3_000 if value_bytes < 1_000 else 30)}
    known, waiting, went = Fleet(), sorted(everybody), []
    while waiting:
        known.add_stale([Due(id_, b"h" * value_bytes, b"") for id_ in waiting], now_ms=1)
        held = known.due()
        # one that is larger than all that may be held is held alone
        assert sum(due.held_bytes for due in held) <= 1_000_000 or len(held) == 1
        went += [due.id for due in held]
        waiting = known.end_generation(kept=set())
    assert sorted(went) == sorted(everybody)
