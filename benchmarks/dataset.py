"""What is in the keyspace: coordinators of which a share is stale, in several shapes."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple
from uuid import UUID

#: Ages in ms of the last sign of life: eleven minutes and one minute.
STALE_AGE_MS, LIVING_AGE_MS = 660_000, 60_000
#: All keys of living coordinators have this in their names, and no key of a stale one.
LIVING = "living"


class Dataset(NamedTuple):
    """A keyspace to sweep, the same one each time.

    `shape` says what records a coordinator has: on "fleet" data two that name a random peer each, on a
    "chain" the next coordinator, on a "hub" the first one, on "colons" a random peer, with colons in all
    ids; on "acceptance" data (the acceptance test's) one that names nobody else.
    """

    shape: str
    coordinators: int
    stale_percent: int = 99

    @property
    def stale(self) -> int:
        """Coordinators that are stale."""
        return self.coordinators * self.stale_percent // 100

    @property
    def doomed(self) -> int:
        """Keys that must be gone after a sweep."""
        return self.stale * (6 if self.shape == "acceptance" else 7)

    def items(self, now_ms: int) -> Iterator[tuple[str, str]]:
        """All keys and values, as of a time in ms since the epoch."""
        random = Random(self.coordinators)
        living = self.coordinators - self.stale
        for kind, count, age_ms in (("", self.stale, STALE_AGE_MS), (LIVING, living, LIVING_AGE_MS)):
            for number in range(count):
                fixed = {"chain": (number + 1) % count, "hub": 0}
                peers = [fixed.get(self.shape, random.randrange(count)) for _record in range(2)]
                name, *others = (self._id(kind, one) for one in (number, *peers))
                yield from self._keys(name, others, now_ms - age_ms, random)

    def _id(self, kind: str, number: int) -> str:
        if self.shape == "colons":
            return f"swarm:{kind or number // 100}:team:{number // 10}:agent:{number % 10}"
        return f"{kind or 'coordinator'}-{(number + 1) * 2_654_435_761 % 2**32:08x}-{number}"

    def _keys(self, name: str, peers: list[str], then_ms: int, random: Random) -> Iterator[tuple[str, str]]:
        who, turn = f'"coordinatorId":"{name}"', random.randrange(1, 500)
        sent_ms = then_ms - random.randrange(1_000, 3_600_000)
        heartbeat = f'{who},"timestamp":{then_ms}'
        if self.shape != "acceptance" and turn % 2:
            heartbeat += f',"iteration":{turn},"phase":"coordination","status":"active"'
        elif self.shape != "acceptance":
            heartbeat = f'{who},"lastHeartbeat":{then_ms},"sequence":{turn * 7},"iteration":{turn}'
            heartbeat += f',"metadata":{{"phase":"waiting","host":"worker-{turn % 40}"}}'
        yield f"blocking:heartbeat:{name}", f"{{{heartbeat}}}"
        yield f"coordinator:activity:{name}", f'{{{who},"lastActivity":{then_ms}}}'
        yield f"blocking:signal:{name}", f'{{"type":"completion","receiver":"{name}","timestamp":{sent_ms}}}'
        if self.shape == "acceptance":
            for key in (f"ack:{name}:signal-1", f"ack:{name}:signal-2", f"idempotency:{name}:init"):
                yield f"blocking:{key}", "1"
            return
        for number, peer in enumerate(peers, turn):
            signal = UUID(int=random.getrandbits(128))
            ack = f'{{{who},"signalId":"{signal}","iteration":{number},"timestamp":{sent_ms}}}'
            yield f"blocking:ack:{name}:{signal}", ack
            yield f"blocking:idempotency:{name}:{peer}:completion:{number}:{sent_ms}", "1"

    def __str__(self) -> str:
        """For tables."""
        return f"{self.shape}, {self.coordinators:,}"
