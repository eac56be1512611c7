"""Random small worlds of coordinators, and what happens to them in the middle of a sweep."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from redis import Redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import LOW_LATENCY, Limits

#: Ids that are parts of one another, with colons and with a hash tag.
IDS = [b"a", b"b", b"a:1", b"w", b"w:1:x", b"{t}"]
STALE_MS, YOUNG_MS = 700_000, 1_000

#: How a coordinator looks when the sweep begins: its heartbeat's age in ms, no JSON, or no heartbeat at all.
HEARTBEATS: dict[str, bytes | int | None] = {
    "stale": STALE_MS,
    "active": YOUNG_MS,
    "unreadable": b"no JSON",
    "orphan": None,
    "sighted orphan": None,
}
#: How much is asked for at once: so much that such a world is one batch, or so little that it is many.
LIMITS = [
    LOW_LATENCY,
    *(Limits(scan_count=10, read_keys=3, batch_keys=number, in_flight=0) for number in (1, 2, 4)),
]
#: What happens to a coordinator in the middle of a sweep.
EVENTS = ("beats", "works", "restarts", "dies")


@dataclass(frozen=True)
class World:
    """Some coordinators by how they look, and the related keys there are."""

    coordinators: dict[bytes, str]
    related: frozenset[bytes]

    def values(self, now_ms: int) -> dict[bytes, bytes]:
        """All string keys and their values, at a time of the server."""
        values = {_with_times(key, now_ms): b"1" for key in self.related}
        for id_, kind in self.coordinators.items():
            heartbeat = HEARTBEATS[kind]
            if heartbeat is not None:
                old = isinstance(heartbeat, int)
                values[keys.heartbeat(id_)] = b"%d" % (now_ms - heartbeat) if old else heartbeat  # type: ignore[operator, assignment]
            if kind != "active" and keys.activity(id_) in values:
                values[keys.activity(id_)] = b"%d" % (now_ms - STALE_MS)
        return values

    def shows(self, coordinator: bytes) -> bool:
        """Whether a sweep knows one of the coordinators whatever happens to it."""
        names = {keys.signal(coordinator), keys.activity(coordinator)}
        return self.coordinators[coordinator] != "orphan" or not names.isdisjoint(self.related)

    def sightings(self, now_ms: int) -> dict[Any, Any]:
        """When the orphans were seen that were seen before."""
        sighted = [id_ for id_, kind in self.coordinators.items() if kind == "sighted orphan"]
        return dict.fromkeys(sighted, b"%d" % (now_ms - STALE_MS))


def _with_times(key: bytes, now_ms: int) -> bytes:
    """A message's name with its time, which is given as an age."""
    return key.replace(b"$OLD", b"%d" % (now_ms - STALE_MS)).replace(b"$YOUNG", b"%d" % (now_ms - YOUNG_MS))


def worlds() -> st.SearchStrategy[World]:
    """Worlds with something of everything, and worlds in which many are stale and share records."""
    return mixed_worlds() | crowds()


@st.composite
def crowds(draw: st.DrawFn) -> World:
    """Stale coordinators with messages between any two of them, one or two perhaps of another kind."""
    coordinators = dict.fromkeys(IDS, "stale") | draw(
        st.dictionaries(st.sampled_from(IDS), st.sampled_from(sorted(HEARTBEATS)), max_size=2)
    )
    id_ = st.sampled_from(IDS)
    messages = st.tuples(id_, id_, st.sampled_from([b"$OLD", b"$OLD", b"$OLD", b"$YOUNG"])).map(
        lambda parts: keys.IDEMPOTENCY + b"%s:%s:done:3:%s" % parts
    )
    acks = id_.map(lambda id_: keys.ACK + id_ + b":stop")
    return World(coordinators, frozenset(draw(st.lists(messages | acks, min_size=4, max_size=12))))


@st.composite
def mixed_worlds(draw: st.DrawFn) -> World:
    """Some of the ids, and keys of all families that name them and others."""
    coordinators = draw(
        st.dictionaries(st.sampled_from(IDS), st.sampled_from(sorted(HEARTBEATS)), min_size=1)
    )
    id_ = st.sampled_from(sorted(coordinators)) | st.sampled_from([*IDS, b"unknown"])
    ages = st.sampled_from([b"$OLD", b"$OLD", b"$YOUNG"])
    related = st.one_of(
        id_.map(keys.signal),
        id_.map(keys.activity),
        id_.map(lambda id_: keys.ACK + id_ + b":stop"),
        id_.map(lambda id_: keys.IDEMPOTENCY + id_ + b":init"),
        st.tuples(id_, id_, ages).map(lambda parts: keys.IDEMPOTENCY + b"%s:%s:done:3:%s" % parts),
    )
    return World(coordinators, frozenset(draw(st.lists(related, max_size=12))))


def may_own(coordinator: bytes, key: bytes, *, is_known: bool = True) -> bool:
    """Whether a key may be a coordinator's, in other words than the product's rule.

    One of whom a sweep saw neither a heartbeat nor a sighting, signal or activity is not known, and may own
    only what can be nobody else's: docs/safety.md says so.
    """
    if not is_known and (b":" in coordinator or key.count(b":") not in (3, 6)):
        return False
    if key.startswith(keys.IDEMPOTENCY):
        return b":%s:" % coordinator in b":%s:" % key.removeprefix(keys.IDEMPOTENCY)
    if key.startswith(keys.ACK):
        return key.startswith(keys.ACK + coordinator + b":")
    return key in (keys.heartbeat(coordinator), keys.signal(coordinator), keys.activity(coordinator))


def happen_to(client: Redis, coordinator: bytes, what: str) -> None:
    """One of the `EVENTS`."""
    now_ms = server_time_ms(client)
    if what == "works":
        client.set(keys.activity(coordinator), now_ms)
    elif what == "dies":
        client.set(keys.heartbeat(coordinator), now_ms - STALE_MS)
    else:
        if what == "restarts":
            client.delete(keys.heartbeat(coordinator))
        client.set(keys.heartbeat(coordinator), now_ms)


class Killed(BaseException):
    """Ends a sweep wherever it is; nothing handles it."""


#: What may go wrong with a request, and whether it is sent all the same.
FAULTS: dict[str, tuple[type[BaseException], bool]] = {
    "the request is lost": (ConnectionError, False),
    "the reply is lost": (ConnectionError, True),
    "killed before": (Killed, False),
    "killed after": (Killed, True),
}


@contextlib.contextmanager
def faulty_request(number: int, fault: str) -> Iterator[Callable[[], bool]]:
    """Have one of the `FAULTS` happen to the n-th request, from 0; gives what says whether it did."""
    kind, is_sent = FAULTS[fault]

    def lose() -> None:
        raise kind("lost")

    with before_request(number, lose, is_sent=is_sent) as happened:
        yield happened


@contextlib.contextmanager
def before_request(
    number: int, happen: Callable[[], Any], *, is_sent: bool = False
) -> Iterator[Callable[[], bool]]:
    """Have something happen before the n-th time, from 0, that a client sends something to a server.

    With `is_sent` it happens after that, before anything is answered. Gives a function that says whether it
    did.
    """
    send: Any = AbstractConnection.send_packed_command
    sent = 0

    def send_packed_command(connection: Any, *arguments: Any, **named: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == number + 1 and not is_sent:
            happen()
        send(connection, *arguments, **named)
        if sent == number + 1 and is_sent:
            happen()

    with mock.patch.object(AbstractConnection, "send_packed_command", send_packed_command):
        yield lambda: sent > number
