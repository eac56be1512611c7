"""What one server holds, by what MONITOR has shown of it."""

import itertools
import json

#: A heartbeat has one of the first two, an activity the third.
_TIMES = ("timestamp", "lastHeartbeat", "lastActivity")
HEARTBEAT, ACTIVITY = b"blocking:heartbeat:", b"coordinator:activity:"
SIGHTINGS = b"blocking:cleanup:orphans"
NEVER = float("inf")


def time_of(value: bytes) -> float:
    """The time that a heartbeat or activity says, in ms since the epoch."""
    said = json.loads(value)
    return float(said if isinstance(said, int) else next(said[name] for name in _TIMES if name in said))


class Keyspace:
    """The keys of one server with their values, until they expire."""

    def __init__(self) -> None:
        """Nothing is there."""
        self._values: dict[bytes, tuple[bytes, float]] = {}
        #: id -> when it was first seen without a heartbeat, in ms since the epoch.
        self.sightings: dict[bytes, float] = {}

    def put(self, words: list[bytes], now_ms: float) -> None:
        """A SET."""
        _, key, value, *options = words
        until_ms = NEVER
        for name, given in itertools.pairwise(options):
            if name.upper() in (b"PX", b"EX"):
                until_ms = now_ms + int(given) * (1 if name.upper() == b"PX" else 1000)
            elif name.upper() in (b"PXAT", b"EXAT"):
                until_ms = int(given) * (1.0 if name.upper() == b"PXAT" else 1000.0)
        self._values[key] = value, until_ms

    def hset(self, words: list[bytes]) -> None:
        """An HSET of sightings."""
        self.sightings.update(zip(words[2::2], map(float, words[3::2]), strict=True))

    def hdel(self, words: list[bytes]) -> None:
        """An HDEL of sightings."""
        for id_ in words[2:]:
            self.sightings.pop(id_, None)

    def get(self, key: bytes, now_ms: float) -> bytes | None:
        """The value of a key, or None."""
        value, until_ms = self._values.get(key, (None, NEVER))
        return value if now_ms < until_ms else None

    def delete(self, key: bytes, now_ms: float) -> bool:
        """Whether there was such a key."""
        if key == SIGHTINGS:
            self.sightings.clear()
        return self._values.pop(key, (b"", 0.0))[1] > now_ms

    def keys(self, time_ms: float) -> set[bytes]:
        """Those that will not have expired by a time."""
        return {key for key, (_, until_ms) in self._values.items() if until_ms > time_ms}
