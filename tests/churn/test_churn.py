"""A fleet lives and dies while it is swept: no deletion costs a living coordinator a key.

``make soak MINUTES=60`` does the same for longer.
"""

import random
from collections.abc import Callable

import pytest

from tests.churn.churn import Outcome, cluster, standalone

SECONDS = 24
#: Who sweeps, and how those end that have done something.
WHO, ENDS = ("commands", "workers"), ("success", "incomplete")


@pytest.mark.parametrize("on", [standalone, cluster])
def test_the_living_lose_nothing_and_the_dead_everything(on: Callable[[float, int], Outcome]) -> None:
    outcome = on(SECONDS, random.randrange(10**6))
    assert outcome.is_good, outcome.told()
    # and that is not since nothing happened
    counts = outcome.counts
    assert counts["deleted of the dead"] > 100, outcome
    for engine in ("lua", "python"):
        assert {f"{who}, {engine}: {end}" for who in WHO for end in ENDS} & counts.keys(), outcome
    assert min(counts["deaths"], counts["long pauses"], counts["short pauses"]) > 20, outcome
    assert counts["workers killed"] > 0, outcome
