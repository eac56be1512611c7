"""What is in the keyspace: coordinators with six keys each, a share of them stale, and keys of others."""

from collections.abc import Iterator
from dataclasses import dataclass

from demo.dataset import ACTIVE_AGE_MS, CHUNK, KEYS_EACH, STALE_AGE_MS, values_of

#: What the names of all stale coordinators' keys have in common, and no other name.
STALE_WORD = b"test-coordinator"
#: The same as a pattern, for those who delete by name.
STALE_PATTERN = b"*" + STALE_WORD + b"*"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A keyspace to sweep."""

    coordinators: int
    #: Per cent.
    stale_share: int = 99
    #: Keys that belong to no coordinator, per key that does.
    unrelated: int = 0

    @property
    def stale(self) -> int:
        """Coordinators that are silent for eleven minutes; the others are for one."""
        return self.coordinators * self.stale_share // 100

    @property
    def doomed_keys(self) -> int:
        """Keys that must be gone after a sweep."""
        return self.stale * KEYS_EACH

    @property
    def keys(self) -> int:
        """All keys."""
        return self.coordinators * KEYS_EACH * (1 + self.unrelated)

    def values(self, now_ms: int) -> Iterator[dict[bytes, str]]:
        """Keys and values, some thousands at once."""
        stale = [STALE_WORD + b"-%d" % number for number in range(self.stale)]
        active = [b"active-coordinator-%d" % number for number in range(self.coordinators - self.stale)]
        yield from values_of(stale, now_ms - STALE_AGE_MS)
        yield from values_of(active, now_ms - ACTIVE_AGE_MS)
        strangers = range(self.keys - self.coordinators * KEYS_EACH)
        for start in strangers[:: CHUNK * KEYS_EACH]:
            chunk = strangers[start : start + CHUNK * KEYS_EACH]
            yield {b"session:%d" % number: "a value of somebody else, left alone" for number in chunk}

    def __str__(self) -> str:
        """For tables."""
        strangers = f", {self.unrelated} × as many keys of others" if self.unrelated else ""
        return f"{self.coordinators:,} coordinators, {self.stale_share} % stale{strangers}"
