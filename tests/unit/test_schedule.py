"""The schedule on the wall clock."""

import pickle
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from celery.schedules import maybe_schedule
from hypothesis import given
from hypothesis import strategies as st

from cleanup_tasks.schedule import ENTRY, WallClock, beat_entries


class Frozen(WallClock):
    """One whose clock stands."""

    def __init__(self, now: datetime, interval_s: float, offset_s: float = 0) -> None:
        """Now is `now`."""
        super().__init__(interval_s, offset_s)
        self.nowfun = lambda: now


def at(time: str) -> datetime:
    """A time of some day."""
    return datetime.fromisoformat(f"2026-03-04T{time}+00:00")


@pytest.mark.parametrize(
    ("last", "now", "offset_s", "expected"),
    [
        ("12:00:01", "12:04:59", 0, (False, 1)),
        ("12:00:01", "12:05:00", 0, (True, 300)),
        ("12:04:59", "12:05:01", 0, (True, 299)),
        ("12:05:00", "12:05:01", 0, (False, 299)),
        ("12:00:01", "15:07:30", 0, (True, 150)),  # missed ones are not made up for
        ("12:20:00", "12:02:00", 0, (True, 180)),  # the clock was set back
        ("12:00:19", "12:05:19", 20, (True, 1)),
        ("12:05:00", "12:05:20", 20, (True, 300)),
        ("12:05:20", "12:10:19", 20, (False, 1)),
    ],
)
def test_when_it_is_due(last: str, now: str, offset_s: int, expected: tuple[bool, float]) -> None:
    assert tuple(Frozen(at(now), 300, offset_s).is_due(at(last))) == expected


@given(
    interval_s=st.integers(1, 100_000),
    looks=st.lists(st.timedeltas(timedelta(0), timedelta(days=3)), min_size=2, max_size=30),
    zone_h=st.integers(-12, 14),
)
def test_one_in_each_interval_in_which_anybody_looks(
    interval_s: int, looks: list[timedelta], zone_h: int
) -> None:
    """Whoever looks, and in whichever time zone."""
    start = datetime(2026, 3, 28, tzinfo=timezone(timedelta(hours=zone_h)))
    times = sorted(start + look for look in looks)
    last, sent = datetime.fromtimestamp(0, UTC), []
    for now in times:
        is_due, wait_s = Frozen(now, interval_s).is_due(last)
        assert 0 < wait_s <= interval_s
        if is_due:
            sent.append(now)
            last = now
    assert [now.timestamp() // interval_s for now in sent] == sorted(
        {now.timestamp() // interval_s for now in times}
    )


def test_it_is_kept_in_a_file_and_compared() -> None:
    _first, entry = beat_entries({"eu": 300, "us": 300}, limited=False, queue="maintenance").values()
    again = pickle.loads(pickle.dumps(entry))  # noqa: S301
    assert again == entry
    assert maybe_schedule(again["schedule"]) != WallClock(300)
    assert again["options"] == {"queue": "maintenance", "headers": {"x-cleanup-interval": 300}}


def test_targets_are_spread_over_the_interval() -> None:
    """Whoever looks every second sends one message at a time, each target's in every interval of its own."""
    intervals = {"default": 300, "eu": 300, "us": 300, "slow": 1200}
    entries = beat_entries(intervals, queue="maintenance")
    assert list(entries) == [ENTRY, f"{ENTRY}-eu", f"{ENTRY}-us", f"{ENTRY}-slow"]
    sent: dict[str, list[int]] = {name: [] for name in entries}
    for second in range(1200, 3600):
        for name, entry in entries.items():
            now = Frozen(datetime.fromtimestamp(second, UTC), *entry["schedule"].__reduce__()[1])
            if now.is_due(datetime.fromtimestamp(second - 1, UTC)).is_due:
                sent[name].append(second)
    assert [len(times) for times in sent.values()] == [8, 8, 8, 2]
    starts = sorted(times[0] for times in sent.values())
    assert [later - earlier for earlier, later in pairwise(starts)] == [75, 75, 750]
    limits = [entry["options"]["time_limit"] for entry in entries.values()]
    assert limits == [0.9 * interval_s for interval_s in intervals.values()]
