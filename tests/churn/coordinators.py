"""A hundred coordinators that live, pause, die and start again: ``python -m tests.churn.coordinators``.

They write what real ones write, with TTLs in about the same proportion to the threshold. Before each write
they say by ECHO whose the key is, so that MONITOR shows what was done and what was meant by it.
"""

import argparse
import json
import random
import threading
import time
import uuid
from collections import Counter
from itertools import count

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from demo.clusters import primary_of

COORDINATORS = 100
#: How what they say begins.
SAYS = "churn "
DAY_S, HOUR_S = 86_400, 3_600


class Places:
    """Where keys are: on one server, or on the shards of a cluster, each a primary and its replica."""

    def __init__(self, shards: list[list[int]]) -> None:
        """The ports of each shard's servers, the primary's first."""
        never = Retry(NoBackoff(), 0)
        self._shards = [
            [Redis(port=port, retry=never, socket_timeout=5) for port in ports] for ports in shards
        ]
        self._now = [0] * len(shards)

    def send(self, key: str, *commands: tuple[object, ...]) -> bool:
        """Send commands to the server of a key, all in one; False: it failed, as on a server that is lost."""
        number = primary_of(key.encode()) if len(self._shards) > 1 else 0
        now = self._now[number]
        try:
            with self._shards[number][now].pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)  # type: ignore[no-untyped-call]
                pipe.execute()
        except RedisError:
            self._now[number] = (now + 1) % len(self._shards[number])  # the replica may have taken over
            return False
        return True


class Fleet:
    """What all coordinators share."""

    def __init__(self, places: Places, threshold_s: float, seed: int) -> None:
        """Nobody lives yet; `threshold_s` is that of the sweeps."""
        self.places = places
        self.threshold_s = threshold_s
        self.ended = threading.Event()
        self.counts: Counter[str] = Counter()
        self._numbers = count()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        #: Everybody who ever lived, and the latest of them.
        self.ids: list[str] = []

    def new_id(self) -> str:
        """An id that nobody had; some are parts of others, and some hold colons or glob characters."""
        with self._lock:
            number = next(self._numbers)
            forms = ("w{}", "w{}", "coordinator-{:08x}-{}", "team:{}", "team:{}:agent:1", "a*{}[b]?")
            form = self._random.choice(forms)
            id_ = (
                form.format(number * 2_654_435_761 % 2**32, number) if "08x" in form else form.format(number)
            )
            self.ids.append(id_)
            return id_

    def somebody(self, by: random.Random) -> str:
        """One of the latest."""
        return by.choice(self.ids[-2 * COORDINATORS :])


class Coordinator(threading.Thread):
    """One that lives, dies and starts again, under the same id or as somebody else."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        """What it does is decided by the seed; when, by the machine too."""
        super().__init__(daemon=True)
        self._fleet = fleet
        self._random = random.Random(seed)
        self._become(fleet.new_id())

    def _become(self, id_: str) -> None:
        self._id = id_
        self._turn = 0
        threshold_ms = int(self._fleet.threshold_s * 1000)
        #: Those of real writers are none, and 15 % and 50 % of the threshold.
        self._ttl_ms = self._random.choice([None, 3 * threshold_ms // 10, threshold_ms // 2])
        self._has_activity = self._random.random() < 0.5
        self._writes_json = self._random.random() < 0.5

    def run(self) -> None:
        """Live again and again, until the end."""
        fleet, chance = self._fleet, self._random
        while not fleet.ended.is_set():
            self._say("starts")
            if chance.random() < 0.3:
                self._record(f"{self._id}:init")  # before its first heartbeat
            for _ in range(chance.randint(2, 30)):
                self._live()
                if fleet.ended.is_set():
                    return
            if chance.random() < 0.3:
                self._say("stops")
                fleet.places.send(self._heartbeat, ("DEL", self._heartbeat))
            else:
                self._say("dies")
            fleet.counts["deaths"] += 1
            self._wait(chance.choice([0.1, 0.7, 1.5, 3.0]) * fleet.threshold_s)
            if chance.random() < 0.4:
                self._become(fleet.new_id())

    @property
    def _heartbeat(self) -> str:
        return f"blocking:heartbeat:{self._id}"

    def _live(self) -> None:
        """One turn: beat, work with others, and wait, perhaps for long."""
        chance, threshold_s = self._random, self._fleet.threshold_s
        self._turn += 1
        self._beat()
        if self._has_activity and chance.random() < 0.5:
            self._work()
        if chance.random() < 0.4:
            self._send_to(self._fleet.somebody(chance))
        if chance.random() < 0.4:
            self._receive_from(self._fleet.somebody(chance))
        kind = chance.random()
        if kind < 0.06:
            self._pause(chance.uniform(0.4, 0.95) * threshold_s, "short pauses")
        elif kind < 0.10:
            self._pause(chance.uniform(1.1, 2.5) * threshold_s, "long pauses")
        else:
            self._wait(chance.uniform(0.05, 0.2) * threshold_s)

    def _beat(self) -> None:
        self.beat_at(self._id, self._ttl_ms)

    def beat_at(self, id_: str, ttl_ms: int | None) -> bool:
        """A heartbeat of some id, as one of two writers writes it."""
        now_ms, who = time.time_ns() // 1_000_000, f'"coordinatorId":"{id_}"'
        if self._writes_json:
            more = f'"sequence":{self._turn * 7},"iteration":{self._turn},"metadata":{{"phase":"waiting"}}'
            value = f'{{{who},"lastHeartbeat":{now_ms},{more}}}'
        else:
            value = f'{{{who},"timestamp":{now_ms},"iteration":{self._turn},"status":"active"}}'
        return self._set(f"blocking:heartbeat:{id_}", value, ttl_ms, [id_])

    def _work(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        value = (
            f'{{"coordinatorId":"{self._id}","lastActivity":{now_ms}}}' if self._writes_json else str(now_ms)
        )
        ttl_ms = int(self._fleet.threshold_s * 1000) if self._writes_json else None
        self._set(f"coordinator:activity:{self._id}", value, ttl_ms, [self._id])

    def _send_to(self, peer: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        value = f'{{"type":"completion","receiver":"{peer}","timestamp":{now_ms}}}'
        self._set(f"blocking:signal:{peer}", value if self._writes_json else "wake", 1000 * DAY_S, [peer])
        self._record(f"{self._id}:{peer}:completion:{self._turn}:{now_ms}", peer)

    def _receive_from(self, peer: str) -> None:
        signal = uuid.UUID(int=self._random.getrandbits(128))
        value = f'{{"coordinatorId":"{self._id}","signalId":"{signal}"}}' if self._writes_json else "1"
        self._set(f"blocking:ack:{self._id}:{signal}", value, 1000 * HOUR_S, [self._id])
        self._record(f"{peer}:{self._id}:stop:{self._turn}:{time.time_ns() // 1_000_000}", peer)

    def _record(self, message: str, *others: str) -> None:
        ttl_ms = 1000 * DAY_S if self._writes_json else None
        self._set(f"blocking:idempotency:{message}", "1", ttl_ms, list(dict.fromkeys([self._id, *others])))

    def _set(self, key: str, value: str, ttl_ms: int | None, owners: list[str]) -> bool:
        end = () if ttl_ms is None else ("PX", ttl_ms)
        meant = ("ECHO", SAYS + json.dumps({"key": key, "owners": owners}))
        done = self._fleet.places.send(key, meant, ("SET", key, value, *end))
        self._fleet.counts["writes" if done else "failed writes"] += 1
        return done

    def _say(self, what: str) -> None:
        self._fleet.places.send(self._heartbeat, ("ECHO", SAYS + json.dumps({"id": self._id, "does": what})))

    def _pause(self, seconds: float, kind: str) -> None:
        self._say(f"pauses for {seconds:.1f} s")
        self._fleet.counts[kind] += 1
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        self._fleet.ended.wait(seconds)


def main() -> None:
    """Let them live for some seconds; then each that ever lived beats once more, and all are gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("places", type=json.loads, help="the ports of each shard's servers, as JSON")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threshold", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    fleet = Fleet(Places(arguments.places), arguments.threshold, arguments.seed)
    all_of_them = [Coordinator(fleet, arguments.seed + number) for number in range(COORDINATORS)]
    for coordinator in all_of_them:
        coordinator.start()
    fleet.ended.wait(arguments.seconds)
    fleet.ended.set()
    for coordinator in all_of_them:
        coordinator.join()
    silent = [id_ for id_ in fleet.ids if not all_of_them[0].beat_at(id_, None)]
    print(json.dumps({**fleet.counts, "ids": len(fleet.ids), "without a last heartbeat": len(silent)}))


if __name__ == "__main__":
    main()
