"""Key names, and who owns a key. The one place that spells and parses them.

========================================  =======================================  ======  =================
key                                       what it is                               type    TTL by its writer
========================================  =======================================  ======  =================
``blocking:heartbeat:<id>``               a coordinator's sign of life             string  none, 90 or 300 s
``coordinator:activity:<id>``             the time of its last work                string  600 s or none
``blocking:signal:<id>``                  a message that waits for it              string  24 h or none
``blocking:ack:<id>:<signal>``            its answer to a signal                   string  1 h or none
``blocking:idempotency:<message>``        a message that was handled               string  24 h or none
``blocking:cleanup:lock``                 ours: who sweeps now                     string  30 s
``blocking:cleanup:orphans``              ours: orphan -> ms of the first sighting hash    see `sweep.orphans`
``blocking:cleanup:hold``                 ours: what a sweep notes for the next    string  see `sweep.notes`
``blocking:cleanup:cooldown``             ours: when beat's last sweep began       string  2 days
``blocking:cleanup:skipped``              ours: since when sweeps are skipped      string  see `sweep.skips`
========================================  =======================================  ======  =================

A message is ``<sender>:<receiver>:<type>:<iteration>:<ms>``; older writers use ``<id>:init`` and
``<op>:<id>``. Ids are bytes and may hold anything, colons and glob characters too. They are compared whole
and are never made into a pattern.

A new family whose names are a prefix and the whole id needs a place in `WHOLE_ID`; a family of another form
needs a rule in `FAMILIES`. The patterns below have to match its names, which a test checks. The script for
use by hand has the same rules once more (lua/cleanup_blocking_coordination.lua), and `servers.acl` the
patterns of a user's keys.
"""

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from operator import itemgetter

HEARTBEAT = b"blocking:heartbeat:"
ACTIVITY = b"coordinator:activity:"
SIGNAL = b"blocking:signal:"
ACK = b"blocking:ack:"
IDEMPOTENCY = b"blocking:idempotency:"

LOCK = b"blocking:cleanup:lock"
SIGHTINGS = b"blocking:cleanup:orphans"
COOLDOWN = b"blocking:cleanup:cooldown"
HOLD = b"blocking:cleanup:hold"
SKIPPED = b"blocking:cleanup:skipped"

#: Families besides the heartbeat whose names end with the whole id. They go with their coordinator, whether
#: a scan saw them or not, and in this order: the activity last, for it is what an orphan is judged by.
WHOLE_ID = (SIGNAL, ACTIVITY)

#: What SCAN looks for, in one pattern each: heartbeats, and all related keys, ``blocki…`` and ``coordi…``.
#: Look-alikes have no owner.
HEARTBEAT_PATTERN = HEARTBEAT + b"*"
RELATED_PATTERN = b"[bc]?o??i*"

#: Names with more segments than this behind their family have no owner and stay: no writer makes them.
MAX_SEGMENTS = 32

#: Known ids that own a key; parties without a heartbeat that own it too; and the ms since the epoch at which
#: the message was sent, where the name says so.
Owners = tuple[Sequence[bytes], Sequence[bytes], float | None]
NOBODY: Owners = ((), (), None)


def heartbeat(coordinator: bytes) -> bytes:
    """The heartbeat key of a coordinator id."""
    return HEARTBEAT + coordinator


def activity(coordinator: bytes) -> bytes:
    """The activity key of a coordinator id."""
    return ACTIVITY + coordinator


def signal(coordinator: bytes) -> bytes:
    """The key of the signal that waits for a coordinator id."""
    return SIGNAL + coordinator


def ids_of_heartbeats(names: Iterable[bytes]) -> list[bytes]:
    """The ids that heartbeat keys name."""
    start = len(HEARTBEAT)
    return [name[start:] for name in names]


def segments_of(coordinator: bytes) -> int:
    """The number of colon-separated segments of an id."""
    return coordinator.count(b":") + 1


def text(coordinator: bytes) -> str:
    """An id as printable text for reports and logs: bytes that are no UTF-8 appear as ``\\xNN``."""
    return coordinator.decode("utf-8", "backslashreplace")


def family(key: bytes) -> str:
    """What people call the family of a key: the second word of its name."""
    return text(key.split(b":", 2)[1])


def names_one_id(key: bytes) -> bool:
    """Whether a key can belong to one id alone, whatever other ids there are."""
    return key.startswith(WHOLE_ID) or (key.startswith(ACK) and key.count(b":") == ACK.count(b":") + 1)


def names_two_parties(key: bytes) -> bool:
    """Whether a key has the form of a message, with so few segments that no id in it can hold a colon."""
    if not key.startswith(IDEMPOTENCY) or key.count(b":") != IDEMPOTENCY.count(b":") + 4:
        return False
    *_, iteration, sent_ms = key.split(b":")
    return iteration.isdigit() and sent_ms.isdigit()


def first_owner(key: bytes) -> bytes | None:
    """The id that owns a key if it is known, whoever else does: the first segment behind the family.

    None where that segment is only a part of what may own it. Takes less than half of the time of `owners`.
    """
    segments = key.split(b":", 3)
    is_part = len(segments) < 3 or (len(segments) > 3 and key.startswith(WHOLE_ID))
    return None if is_part else segments[2]


def owners(key: bytes, known: Container[bytes], lengths: Collection[int]) -> Owners:
    """Who owns a related key.

    Args:
        key: the name of a key, of whatever family.
        known: the ids that have a heartbeat, or are orphans that are due.
        lengths: the numbers of segments that these ids have, as `segments_of` counts.

    Returns:
        The owners, see `Owners`. A key goes only if all of them are due; `NOBODY`'s key stays. Ids without a
        heartbeat are given where the key names no known id (they are orphans), and for a message that has a
        known party too.
    """
    segments = key.split(b":")
    if not 2 < len(segments) <= MAX_SEGMENTS + 2:
        return NOBODY
    first, rule = _BY_SECOND_WORD.get(segments[1], _NO_RULE)
    return rule(segments, known, lengths) if segments[0] == first else NOBODY


def _whole_id(segments: list[bytes], known: Container[bytes], _lengths: Collection[int]) -> Owners:
    id_ = segments[2] if len(segments) == 3 else b":".join(segments[2:])
    return ((id_,), (), None) if id_ in known else ((), (id_,), None)


def _ack(segments: list[bytes], known: Container[bytes], lengths: Collection[int]) -> Owners:
    """Every known id that ends before a colon; where there is none, the part before the only colon.

    Of more parts nobody knows where the id ends. If the first one passed for a coordinator without a
    heartbeat, it would in time be due, and all that is called like it, whosever it is, would go.
    """
    if len(segments) == 4:  # nearly all of them
        id_ = segments[2]
        return ((id_,), (), None) if id_ in known else ((), (id_,), None)
    prefixes = [b":".join(segments[2 : 2 + length]) for length in lengths if 2 + length < len(segments)]
    return [id_ for id_ in prefixes if id_ in known], (), None


def _message(segments: list[bytes], known: Container[bytes], lengths: Collection[int]) -> Owners:
    """The two parties of a message; of any other form every known id that is whole segments of it."""
    if len(segments) < 7 or not (segments[-2].isdigit() and segments[-1].isdigit()):
        return list(dict.fromkeys(id_ for id_, _, _ in _runs(segments[2:], known, lengths))), (), None
    sent_ms = float(segments[-1])  # of any number of digits
    body = segments[2:-3]
    if len(body) == 2 and 2 not in lengths:
        sender, receiver = body
        if sender in known and receiver in known:  # nearly all of them
            return body if sender != receiver else (sender,), (), sent_ms
    runs = _runs(body, known, lengths)
    if len(body) == 2:  # each is a party, also where both together are somebody's id
        beside = [party for party in body if party not in known]
    else:
        beside = _beside(body, runs) if runs else []
    return list(dict.fromkeys(id_ for id_, _, _ in runs)), list(dict.fromkeys(beside)), sent_ms


def _runs(
    segments: list[bytes], known: Container[bytes], lengths: Collection[int]
) -> list[tuple[bytes, int, int]]:
    """Known ids that are whole segments, each with where it begins and ends.

    The work grows with the segments times the different lengths of ids, and not with the segments' square.
    """
    return [
        (id_, start, start + length)
        for length in lengths
        for start in range(len(segments) - length + 1)
        if (id_ := b":".join(segments[start : start + length])) in known
    ]


def _beside(segments: list[bytes], runs: list[tuple[bytes, int, int]]) -> list[bytes]:
    """What no run covers, before, between and behind them: parties that nobody knows."""
    parties: list[bytes] = []
    covered = 0
    for _id, start, end in sorted(runs, key=itemgetter(1)):
        if start > covered:
            parties.append(b":".join(segments[covered:start]))
        covered = max(covered, end)
    if covered < len(segments):
        parties.append(b":".join(segments[covered:]))
    return parties


_Rule = Callable[[list[bytes], Container[bytes], Collection[int]], Owners]


def _by_second_word(rules: dict[bytes, _Rule]) -> dict[bytes, tuple[bytes, _Rule]]:
    """Families by the second word of their names, each with the first word and its rule."""
    words = [family.split(b":") for family in rules]
    if any(len(each) != 3 or each[2] for each in words) or len({each[1] for each in words}) < len(rules):
        raise ValueError("a family's name has two words, and the second is no other family's")
    return {second: (first, rule) for (first, second, _), rule in zip(words, rules.values(), strict=True)}


#: The families of related keys -> who owns a key of each.
FAMILIES: dict[bytes, _Rule] = {**dict.fromkeys(WHOLE_ID, _whole_id), ACK: _ack, IDEMPOTENCY: _message}
_BY_SECOND_WORD = _by_second_word(FAMILIES)
#: The first word of no name.
_NO_RULE: tuple[bytes, _Rule] = (b":", _whole_id)
