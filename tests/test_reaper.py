"""Several batches under way: in which order, and what the report says when a sweep is broken off."""

import subprocess
import sys

import pytest
from redis import Redis

from cleanup_tasks.batch import Batch
from cleanup_tasks.engines import Engine, Outcome, Reaping
from cleanup_tasks.reaper import Reaper
from demo.servers import Server
from demo.stack import ROOT
from tests.sweeping import new_report


class Recorded:
    """An engine that notes when a batch is sent, and when it has come to an end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.events: list[str] = []
        self._sent = 0

    def reap(self, batch: Batch, threshold_s: int, *, dry_run: bool) -> Reaping:
        self._sent += 1
        return self._reap(self._sent, self._engine.reap(batch, threshold_s, dry_run=dry_run))

    def _reap(self, number: int, reaping: Reaping) -> Reaping:
        self.events.append(f"{number} sent")
        outcome: Outcome = yield from reaping
        self.events.append(f"{number} over")
        return outcome


def test_the_next_batch_is_sent_before_one_is_awaited(client: Redis, engine: Engine) -> None:
    recorded = Recorded(engine)
    batches = [Batch(own={b"%d" % number: []}) for number in range(4)]
    Reaper(recorded, new_report(engine.name), None, under_way=2).reap(batches, lambda _batch: None)
    order = ["1 sent", "2 sent", "1 over", "3 sent", "2 over", "4 sent", "3 over", "4 over"]
    assert recorded.events == order


@pytest.mark.parametrize("alone", [{"partial": True}, {"orphaned": True}])
def test_some_batches_have_no_other_beside_them(
    client: Redis, engine: Engine, alone: dict[str, bool]
) -> None:
    recorded = Recorded(engine)
    batches = [Batch(own={b"%d" % number: []}, **alone) for number in range(3)]  # type: ignore[arg-type]
    batches.append(Batch(own={b"3": []}))
    Reaper(recorded, new_report(engine.name), None, under_way=2).reap(batches, lambda _batch: None)
    assert recorded.events == [f"{number} {what}" for number in range(1, 5) for what in ("sent", "over")]


def test_wherever_it_is_broken_off_the_report_is_true(server: Server, engine: Engine) -> None:
    """A report without errors counts exactly the keys that are gone; one with errors at most these."""
    command = [sys.executable, "-m", "tests.breaking_off", server.url, engine.name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
