"""Who owns a key, in other words than the product's: ids are looked for in the text of a name."""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cleanup_tasks.rules import keys

MESSAGE = re.compile(rb"(?P<body>[^:]*(?::[^:]*)+):[^:]*:\d+:(?P<ms>\d+)", re.DOTALL)
#: Behind the two of the family.
MOST_COLONS = 31


class Owned(NamedTuple):
    """Who owns a key."""

    #: Ids that have a heartbeat.
    known: set[bytes] = set()  # noqa: RUF012, nobody adds to it
    #: Parties that have none.
    strangers: set[bytes] = set()  # noqa: RUF012
    #: When the message was sent, in ms since the epoch.
    sent_ms: float | None = None


def names_two(key: bytes) -> bool:
    """Whether a key is a message of two ids without colons."""
    message = MESSAGE.fullmatch(key.removeprefix(keys.IDEMPOTENCY))
    return key.startswith(keys.IDEMPOTENCY) and message is not None and message["body"].count(b":") == 1


def owned_by(key: bytes, known: Iterable[bytes]) -> Owned:
    """Who owns a key, where the ids that are known have a heartbeat."""
    if key.count(b":") > MOST_COLONS + 2:
        return Owned()
    for family in keys.WHOLE_ID:
        if key.startswith(family):
            id_ = key.removeprefix(family)
            return Owned({id_}) if id_ in known else Owned(strangers={id_})
    if key.startswith(keys.ACK):
        return _ack(key.removeprefix(keys.ACK), known)
    if key.startswith(keys.IDEMPOTENCY):
        return _record(key.removeprefix(keys.IDEMPOTENCY), known)
    return Owned()


def _ack(rest: bytes, known: Iterable[bytes]) -> Owned:
    if b":" not in rest:
        return Owned()
    owners = {id_ for id_ in known if rest.startswith(id_ + b":")}
    return (
        Owned(owners)
        if owners
        else Owned(strangers={rest.split(b":")[0]} if rest.count(b":") == 1 else set())
    )


def _record(rest: bytes, known: Iterable[bytes]) -> Owned:
    message = MESSAGE.fullmatch(rest)
    if not message:
        return Owned({id_ for id_ in known if b":%s:" % id_ in b":%s:" % rest})
    body, sent_ms = message["body"], float(message["ms"])
    spots = {id_: list(_spots(id_, body)) for id_ in known}
    owners = {id_ for id_, its in spots.items() if its}
    if body.count(b":") == 1:  # two ids without colons, if it is not one with a colon
        return Owned(owners, set(body.split(b":")).difference(known), sent_ms)
    if not owners:
        return Owned(sent_ms=sent_ms)
    segments: list[bytes | None] = [*body.split(b":")]
    for start, end in (spot for its in spots.values() for spot in its):
        first = body[:start].count(b":")
        covered = body[start:end].count(b":") + 1
        segments[first : first + covered] = [None] * covered
    between = itertools.groupby(segments, key=lambda segment: segment is None)
    strangers = {b":".join(group) for is_covered, group in between if not is_covered}  # type: ignore[arg-type]
    return Owned(owners, strangers, sent_ms)


def _spots(id_: bytes, body: bytes) -> Iterator[tuple[int, int]]:
    """Where an id is whole segments of a text: from and to which byte."""
    for found in re.finditer(b"(?=:%s:)" % re.escape(id_), b":%s:" % body):
        yield found.start(), found.start() + len(id_)
