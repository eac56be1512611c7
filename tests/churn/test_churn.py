"""A fleet lives and dies while it is swept: no deletion costs a living coordinator a key.

``make soak MINUTES=60`` does the same for longer.
"""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.churn.churn import Outcome, cluster, standalone

SECONDS = 24
#: Who sweeps, and how those end that have done something.
WHO, ENDS = ("commands", "workers"), ("success", "incomplete")
#: On a machine that is busy with other things too little may happen in one go.
MOST_GOES = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]


@pytest.mark.parametrize("on", [standalone, cluster])
def test_the_living_lose_nothing_and_the_dead_everything(on: Callable[[float, int], Outcome]) -> None:
    counts: Counter[str] = Counter()
    for _go in range(MOST_GOES):
        outcome = on(SECONDS, random.randrange(10**6))
        assert outcome.is_good, outcome.told()
        counts.update(outcome.counts)
        if not missing(counts):
            return
    pytest.fail(f"not enough happened: {missing(counts)} of {counts}")


def missing(counts: Counter[str]) -> list[str]:
    """What did not happen often enough to show anything."""
    least = {
        "deleted of the dead": 100,
        "deaths": 20,
        "long pauses": 20,
        "short pauses": 20,
        "workers killed": 1,
    }
    sweeps = {
        f"sweeps by {who}, {engine}": sum(counts[f"{who}, {engine}: {end}"] for end in ENDS)
        for who in WHO
        for engine in ("lua", "python")
    }
    rare = [what for what, number in least.items() if counts[what] < number]
    return rare + [what for what, number in sweeps.items() if not number]
