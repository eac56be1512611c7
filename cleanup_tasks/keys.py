"""The only place that spells or parses a key name.

========================================  ================================================  ==============
key                                       what it is                                        type
========================================  ================================================  ==============
``blocking:heartbeat:<id>``               a coordinator's sign of life                      string
``coordinator:activity:<id>``             the time of its last work                         string
``blocking:signal:<id>``                  a message that waits for it                       string
``blocking:ack:<id>:<signal>``            its answer to a signal                            string
``blocking:idempotency:<message>``        a message that was handled; names its parties     string
``blocking:cleanup:lock``                 ours: who sweeps now                              string, TTL
``blocking:cleanup:orphans``              ours: orphaned id -> ms when first seen           hash, TTL
========================================  ================================================  ==============

Ids are bytes and may hold anything, colons and glob characters too. They are compared whole and are
never made into a pattern.
"""

import re

HEARTBEAT = b"blocking:heartbeat:"
ACTIVITY = b"coordinator:activity:"
SIGNAL = b"blocking:signal:"
ACK = b"blocking:ack:"
IDEMPOTENCY = b"blocking:idempotency:"

LOCK = b"blocking:cleanup:lock"
SIGHTINGS = b"blocking:cleanup:orphans"

#: What SCAN looks for. One pass finds acks and idempotency records; the class also lets look-alikes
#: through (``blocking:acks:``), which `possible_owners` turns away.
HEARTBEAT_PATTERN = HEARTBEAT + b"*"
RELATED_PATTERN = b"blocking:[ai]*"
#: The same, with all keys that name a coordinator though its heartbeat is gone.
ORPHAN_PATTERNS = (b"blocking:[ais]*", ACTIVITY + b"*")

_MESSAGE = re.compile(rb"([^:]+):([^:]+):[^:]+:\d+:\d+")

#: A name with more colon-separated segments than this has more possible owners than is worth asking
#: about (they grow with the square); nobody's death proves such a key dead, so it stays.
MAX_SEGMENTS = 32


def heartbeat(coordinator: bytes) -> bytes:
    """The heartbeat key of a coordinator id."""
    return HEARTBEAT + coordinator


def activity(coordinator: bytes) -> bytes:
    """The activity key of a coordinator id."""
    return ACTIVITY + coordinator


def signal(coordinator: bytes) -> bytes:
    """The key of the signal that waits for a coordinator id."""
    return SIGNAL + coordinator


def coordinator_of(heartbeat_key: bytes) -> bytes:
    """The id that a heartbeat key names."""
    return heartbeat_key[len(HEARTBEAT) :]


def worker_of(activity_key: bytes) -> bytes:
    """The id that an activity key names."""
    return activity_key[len(ACTIVITY) :]


def possible_owners(key: bytes) -> list[bytes]:
    """Every id that may own an ack or idempotency record, known or not, each once.

    An ack may belong to any id that ends before a colon of the name; an idempotency record to any run
    of one or more whole segments. Other keys, and names of more than `MAX_SEGMENTS` segments, have
    no possible owner and so are never touched.
    """
    segments = key.split(b":")
    if not 2 < len(segments) <= MAX_SEGMENTS + 2 or segments[0] != b"blocking":
        return []
    if segments[1] == b"ack":
        if len(segments) == 4:  # nearly all of them, and a third of the time
            return segments[2:3]
        return [b":".join(segments[2:end]) for end in range(3, len(segments))]
    if segments[1] == b"idempotency":
        if len(segments) == 4:
            return list({*segments[2:], key[len(IDEMPOTENCY) :]})
        ends = range(3, len(segments) + 1)
        return list({b":".join(segments[start:end]) for end in ends for start in range(2, end)})
    return []


def named(key: bytes) -> tuple[bytes, ...]:
    """The ids that a key names when nobody with a heartbeat may own it.

    A signal or activity names its whole rest, an ack the part before the first colon, an idempotency
    record of the shape ``<sender>:<receiver>:<type>:<iteration>:<ms>`` both parties, any other nobody.
    """
    if key.startswith(SIGNAL):
        return (key[len(SIGNAL) :],)
    if key.startswith(ACTIVITY):
        return (key[len(ACTIVITY) :],)
    if key.startswith(ACK):
        return (key[len(ACK) :].split(b":", 1)[0],) if 2 < key.count(b":") <= MAX_SEGMENTS + 1 else ()
    if key.startswith(IDEMPOTENCY):
        message = _MESSAGE.fullmatch(key, len(IDEMPOTENCY))
        return tuple(dict.fromkeys(message.groups())) if message else ()
    return ()


def text(coordinator: bytes) -> str:
    """An id as printable text for reports and logs: bytes that are no UTF-8 appear as ``\\xNN``."""
    return coordinator.decode("utf-8", "backslashreplace")
