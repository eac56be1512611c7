"""What did the living lose? ``python -m tests.churn.replay SHARDS --threshold SECONDS``

Replays what MONITOR shows, and judges each deletion by what the server held at that instant and by what the
coordinators said of their keys. The result is JSON.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict, deque

from redis import Redis
from redis.crc import key_slot

from cleanup_tasks.servers.client import CLIENT_NAME
from demo.clusters import primary_of
from tests.churn.coordinators import SAYS
from tests.churn.keyspace import ACTIVITY, HEARTBEAT, SIGHTINGS, Keyspace, time_of
from tests.churn.monitor import Entry, Monitor

OURS = b"blocking:cleanup:"
RECORD = b"blocking:idempotency:"
WRITTEN_ONCE = (RECORD, b"blocking:ack:")
#: Whatever else could take a key away from its owner.
OTHER_REMOVALS = {
    "GETDEL",
    "EXPIRE",
    "PEXPIRE",
    "EXPIREAT",
    "PEXPIREAT",
    "RENAME",
    "FLUSHALL",
    "FLUSHDB",
    "MSET",
}
#: A key that expires so near to the end may be there or not.
LEEWAY_MS = 1_000
#: Lines of history that are kept of each coordinator.
HISTORY = 12


class Replay:
    """Takes in one command after the other; `lost` has a line for each key that a living one lost."""

    def __init__(self, shards: list[list[int]], threshold_s: int) -> None:
        """`shards`: the ports of each shard's servers, the primary's first."""
        self._shards = shards
        self._threshold_ms = 1000 * threshold_s
        self._spaces = {port: Keyspace() for ports in shards for port in ports}
        self._gone: set[int] = set()
        #: Addresses of coordinators.
        self._writers: set[tuple[int, str]] = set()
        self._owners: dict[bytes, list[bytes]] = {}
        #: id -> the time that its latest sign of life says.
        self._signs: dict[bytes, float] = {}
        #: Heartbeat or activity -> the sweeps that have read it since it arrived.
        self._readers: defaultdict[bytes, set[str]] = defaultdict(set)
        #: Port and address of a connection -> how its sweep's process calls it.
        self._names: dict[tuple[int, str], str] = {}
        #: Port -> the address of whoever has called a script there last.
        self._callers: dict[int, str] = {}
        self._history: defaultdict[bytes, deque[str]] = defaultdict(lambda: deque(maxlen=HISTORY))
        self.lost: list[str] = []
        self.counts: Counter[str] = Counter()

    def note_gone(self, ports: set[int]) -> None:
        """These servers are no more."""
        self._gone |= ports

    def take(self, entry: Entry) -> None:
        """One command."""
        space, name = self._spaces[entry.port], entry.name
        if name == "ECHO":
            self._hear(entry)
        elif name == "SET":
            space.put(words := entry.words(), entry.time_ms)
            if self._is_primary(entry.port):
                self._note_sign(words[1], words[2], entry.time_ms)
        elif name in ("DEL", "UNLINK"):
            self._delete(entry, entry.words()[1:])
        elif name == "HELLO" and b"SETNAME" in (words := entry.words()):
            self._names[entry.port, entry.client] = words[words.index(b"SETNAME") + 1].decode()
        elif name == "EVALSHA":
            self._callers[entry.port] = entry.client
        elif name in ("GETRANGE", "EXISTS"):
            for key in entry.words()[1:]:
                self._readers[key].add(self._sweep_of(entry))
        elif name in ("HSET", "HDEL") and (words := entry.words())[1] == SIGHTINGS:
            (space.hset if name == "HSET" else space.hdel)(words)
        elif name in OTHER_REMOVALS and any(self._owners.get(word) for word in entry.words()):
            self.lost.append(f"{self._when(entry.time_ms)} nobody sends {name}: {entry.words()}")

    def _hear(self, entry: Entry) -> None:
        """What a coordinator says."""
        said = entry.words()[1]
        if not said.startswith(SAYS.encode()):
            return
        self._writers.add((entry.port, entry.client))
        told = json.loads(said[len(SAYS) :])
        if "key" in told:
            self._owners[told["key"].encode()] = [owner.encode() for owner in told["owners"]]
        else:
            self._history[told["id"].encode()].append(f"{self._when(entry.time_ms)} {told['does']}")

    def _note_sign(self, key: bytes, value: bytes, now_ms: float) -> None:
        for family in (HEARTBEAT, ACTIVITY):
            if key.startswith(family):
                id_ = key.removeprefix(family)
                self._signs[id_] = max(time_of(value), self._signs.get(id_, 0.0))
                self._readers[key].clear()
                what = "beats" if family == HEARTBEAT else "works"
                self._history[id_].append(
                    f"{self._when(now_ms)} {what} ({now_ms - time_of(value):.0f} ms ago)"
                )

    def _delete(self, entry: Entry, keys: list[bytes]) -> None:
        space, now_ms = self._spaces[entry.port], entry.time_ms
        keys = [key for key in keys if space.get(key, now_ms) is not None or key == SIGHTINGS]
        is_sweep = self._is_primary(entry.port) and (entry.port, entry.client) not in self._writers
        # all of them are judged before the first is gone: a heartbeat may be among them
        who = self._sweep_of(entry)
        why = [self._loss(key, who, now_ms) for key in keys] if is_sweep else []
        for key, loss in zip(keys, why, strict=False):
            if not key.startswith(OURS):
                assert who.startswith(CLIENT_NAME) or not is_sweep, f"{who} is no sweep"
                engine = "lua" if entry.client == "lua" else "python"
                self.counts[f"deleted by {engine}"] += 1
                for owner in self._owners.get(key, ()):
                    self._history[owner].append(f"{self._when(now_ms)} {engine} deletes {key!r}")
                if loss:
                    self.lost.append(f"{self._when(now_ms)} {engine} deleted {key!r}: {loss}")
        for key in keys:
            space.delete(key, now_ms)
            if is_sweep and key.startswith(WRITTEN_ONCE) and not key.endswith(b":init"):
                self._owners.pop(key, None)  # an hour of them would fill the memory

    def _sweep_of(self, entry: Entry) -> str:
        """The sweep that has sent a command, also by a script."""
        client = self._callers[entry.port] if entry.client == "lua" else entry.client
        return self._names.get((entry.port, client), client)

    def _loss(self, key: bytes, who: str, now_ms: float) -> str | None:
        """Who lost something by the deletion of a key, with its history, or None."""
        if key.startswith(OURS):
            return None
        owners = self._owners.get(key)
        if owners is None:
            return "nobody has said whose it is"
        for owner in owners:
            reason = self._reason(key, owner, who, now_ms)
            if reason:
                return f"{owner!r} {reason}; " + ", ".join(self._history[owner])
        return None

    def _reason(self, key: bytes, owner: bytes, who: str, now_ms: float) -> str | None:
        """Why an owner must not lose a key; None: it may."""
        oldest_ms = now_ms - self._threshold_ms
        for sign in (HEARTBEAT + owner, ACTIVITY + owner):
            value = self._space_of(sign).get(sign, now_ms)
            if value is not None and time_of(value) >= oldest_ms:
                if self._is_between(key, sign, who):
                    self.counts["in another slot, between look and deletion"] += 1
                    return None
                return "is alive"
        if self._signs.get(owner, 0.0) < oldest_ms:
            self.counts["deleted of the dead"] += 1
            return None
        # Its heartbeat has expired. What is promised then is in the README under orphans.
        sent_ms = key.rpartition(b":")[2]
        if key.startswith(RECORD) and sent_ms.isdigit() and int(sent_ms) < oldest_ms:
            self.counts["old records, heartbeat expired"] += 1
            return None
        if self._space_of(SIGHTINGS).sightings.get(owner, now_ms) < oldest_ms:
            self.counts["heartbeat seen by no sweep"] += 1
            return None
        return "has beaten within the threshold, and its heartbeat has expired since"

    def _is_between(self, key: bytes, sign: bytes, who: str) -> bool:
        """On a cluster, whether a sign in another slot than the key came after the last look of its sweep."""
        apart = len(self._shards) > 1 and key_slot(key) != key_slot(sign)
        return apart and who not in self._readers[sign]

    def _space_of(self, key: bytes) -> Keyspace:
        """What the server holds that serves a key: the primary, or its replica once that is lost."""
        return self._spaces[self._primary(self._shards[primary_of(key) if len(self._shards) > 1 else 0])]

    def _is_primary(self, port: int) -> bool:
        """Whether a server is not a replica, which does what its primary has done."""
        return any(self._primary(ports) == port for ports in self._shards)

    def _primary(self, ports: list[int]) -> int:
        return next(port for port in ports if port not in self._gone)

    @staticmethod
    def _when(time_ms: float) -> str:
        return f"{time_ms / 1000 % 10_000:.3f}"

    def differences(self, now_ms: float) -> list[str]:
        """Keys that are there and were not to be expected, or the other way round; nobody writes now."""
        found = []
        for ports in self._shards:
            port = self._primary(ports)
            with Redis(port=port) as client:
                there = {key for key in client.scan_iter(count=1_000) if _is_theirs(key)}
                seconds, micros = client.time()
            then_ms = seconds * 1000 + micros / 1000
            expected = set(filter(_is_theirs, self._spaces[port].keys(then_ms + LEEWAY_MS)))
            found += [f"{key!r} is gone, and MONITOR did not show why" for key in expected - there]
            surplus = there - self._spaces[port].keys(now_ms - LEEWAY_MS)
            found += [f"{key!r} is there, and MONITOR did not show why" for key in surplus]
        return found


def _is_theirs(key: bytes) -> bool:
    return key.startswith((b"blocking:", b"coordinator:")) and not key.startswith(OURS)


def main() -> None:
    """Watch until the last words; what was lost and counted is JSON on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shards", type=json.loads, help="the ports of each shard's servers, as JSON")
    parser.add_argument("--threshold", type=int, required=True)
    arguments = parser.parse_args()
    replay = Replay(arguments.shards, arguments.threshold)
    monitor = Monitor([port for ports in arguments.shards for port in ports])
    print("watching", file=sys.stderr, flush=True)
    now_ms = 0.0
    for entry in monitor.entries():
        replay.note_gone(monitor.lost)
        replay.take(entry)
        now_ms = entry.time_ms
    print(json.dumps({"lost": replay.lost, "wrong": replay.differences(now_ms), "counts": replay.counts}))


if __name__ == "__main__":
    main()
