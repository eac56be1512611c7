"""Who owns a key: a table, and any name at all against a model in other words."""

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanup_tasks.rules import keys
from tests.support.naive import owned_by

#: Few letters, so that ids are parts of one another and names are ambiguous.
WORDS = [b"", b"a", b"b", b"ab", b"1", b"*", b"?", b"[a]", b"{a}", b"\\", b"\n", b"\0", b"\xff", b"init"]
IDS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(b":".join)
TAILS = st.sampled_from(
    [
        b":done:1:1760000000000",
        b":done:1:2",
        b"::0:0",
        b":done:one:1760000000000",
        b":done:1:1760000000000:x",
        b":done:1:",
        b":done:\xd9\xa1:1",
        b":done:1:1234567890123456",
        b":init",
        b"",
    ]
)
FAMILIES = st.sampled_from(
    [keys.IDEMPOTENCY, keys.IDEMPOTENCY, keys.ACK, keys.SIGNAL, keys.ACTIVITY, keys.HEARTBEAT, b"blocking:"]
)


@st.composite
def names(draw: st.DrawFn) -> tuple[bytes, set[bytes]]:
    """A key, and ids that have a heartbeat."""
    known = draw(st.sets(IDS, max_size=5))
    ids = st.sampled_from(sorted(known)) | IDS if known else IDS
    middle = b":".join(draw(st.lists(ids, min_size=1, max_size=4)))
    return draw(FAMILIES) + middle + draw(TAILS), known


@given(name=names())
@settings(max_examples=600)
def test_any_name_has_the_owners_that_the_model_says(name: tuple[bytes, set[bytes]]) -> None:
    key, known = name
    found, strangers, sent_ms = keys.owners(key, known, {keys.segments_of(id_) for id_ in known})
    expected = owned_by(key, known)
    assert (set(found), set(strangers), sent_ms) == expected
    # And nobody is named twice, for each is judged once
    assert (len(found), len(strangers)) == (len(set(found)), len(set(strangers)))
    # The look at the first segment alone never says more than the whole rule
    first = keys.first_owner(key)
    assert first not in known or first in found or not (found or strangers)


@pytest.mark.parametrize(
    ("key", "first"),
    [
        (b"blocking:signal:a", b"a"),
        (b"blocking:signal:a:b", None),
        (b"coordinator:activity:a:b", None),
        (b"blocking:ack:a:s", b"a"),
        (b"blocking:idempotency:a:b:done:1:1760000000000", b"a"),
        (b"blocking:idempotency::init", b""),
        (b"blocking:signal", None),
        (b"", None),
    ],
)
def test_the_first_segment_says_who_owns_a_key(key: bytes, first: bytes | None) -> None:
    assert keys.first_owner(key) == first


MS = b"1760000000000"
LONGEST = b":".join([b"a"] * keys.MAX_SEGMENTS)


@pytest.mark.parametrize(
    ("key", "known", "owners", "strangers"),
    [
        # the rest of the name, whatever it holds
        (b"blocking:signal:a:b", [b"a"], [], [b"a:b"]),
        (b"blocking:signal:a:b", [b"a:b", b"a"], [b"a:b"], []),
        (b"blocking:signal:", [], [], [b""]),
        (b"blocking:signal:" + LONGEST, [], [], [LONGEST]),
        (b"blocking:signal:" + LONGEST + b":a", [], [], []),
        (b"coordinator:activity:a:b", [], [], [b"a:b"]),
        # every known id that ends before a colon, or else what is before the only colon
        (b"blocking:ack:a:b:c", [], [], []),
        (b"blocking:ack:a:b:c", [b"a:b"], [b"a:b"], []),
        (b"blocking:ack:a:b:c", [b"a:b", b"a", b"a:b:c"], [b"a", b"a:b"], []),
        (b"blocking:ack::s", [], [], [b""]),
        (b"blocking:ack:a", [b"a"], [], []),
        (b"blocking:ack:" + LONGEST, [], [], []),
        (b"blocking:ack:" + LONGEST + b":a", [b"a"], [], []),
        # the two parties of a message, known or not
        (b"blocking:idempotency:a:b:done:1:" + MS, [], [], [b"a", b"b"]),
        (b"blocking:idempotency:a:b:done:1:" + MS, [b"b"], [b"b"], [b"a"]),
        (b"blocking:idempotency:a:b:done:1:" + MS, [b"a", b"b", b"done", b"1", MS], [b"a", b"b"], []),
        (b"blocking:idempotency:a:b:done:1:" + MS, [b"done", b"1", b"done:1", MS], [], [b"a", b"b"]),
        (b"blocking:idempotency:a:a:done:1:" + MS, [], [], [b"a"]),
        (b"blocking:idempotency:a:a:done:1:" + MS, [b"a"], [b"a"], []),
        (b"blocking:idempotency::b:done:1:" + MS, [], [], [b"", b"b"]),
        (b"blocking:idempotency:a:b:done:%b:%b" % (b"1" * 400, b"9" * 400), [b"b"], [b"b"], [b"a"]),
        # ids with colons: what no known id covers is a party
        (b"blocking:idempotency:s:1:t:2:done:1:" + MS, [b"s:1"], [b"s:1"], [b"t:2"]),
        (b"blocking:idempotency:s:1:t:2:done:1:" + MS, [b"t:2"], [b"t:2"], [b"s:1"]),
        (b"blocking:idempotency:s:1:t:2:done:1:" + MS, [b"1"], [b"1"], [b"s", b"t:2"]),
        (b"blocking:idempotency:s:1:t:2:done:1:" + MS, [b"s", b"2"], [b"2", b"s"], [b"1:t"]),
        (b"blocking:idempotency:s:1:t:2:done:1:" + MS, [b"s:1:t:2"], [b"s:1:t:2"], []),
        (b"blocking:idempotency:s:1:t:2:done:1:" + MS, [], [], []),
        # another form: every known id that is whole segments
        (b"blocking:idempotency:a:init", [], [], []),
        (b"blocking:idempotency:a:init", [b"a", b"init", b"a:init"], [b"a", b"a:init", b"init"], []),
        (b"blocking:idempotency:op1:a", [b"a", b"op"], [b"a"], []),
        (b"blocking:idempotency:a:b:done:1", [b"done"], [b"done"], []),
        (b"blocking:idempotency:a:b:done:one:" + MS, [b"done"], [b"done"], []),
        (b"blocking:idempotency:a:b:done:1:" + MS + b":x", [b"1"], [b"1"], []),
        (b"blocking:idempotency:" + LONGEST, [b"a"], [b"a"], []),
        (b"blocking:idempotency:" + LONGEST + b":a", [b"a"], [], []),
        # nobody's
        (b"blocking:heartbeat:a", [b"a"], [], []),
        (b"blocking:cleanup:orphans", [b"orphans"], [], []),
        (b"blocking:cleanup:lock", [b"lock"], [], []),
        (b"blocking:acks:a:s", [b"a"], [], []),
        (b"coordinator:circuit:a", [b"a"], [], []),
        (b"blocking:signal", [b""], [], []),
        (b"", [b""], [], []),
    ],
)
def test_who_owns_a_key(key: bytes, known: list[bytes], owners: list[bytes], strangers: list[bytes]) -> None:
    found, unknown, _sent_ms = keys.owners(key, set(known), {keys.segments_of(id_) for id_ in known})
    assert (sorted(found), sorted(unknown)) == (owners, strangers)


@pytest.mark.parametrize(
    "key",
    [
        *(b"blocking:signal:a", b"blocking:ack:a:s", b"blocking:idempotency:a:init"),
        *(b"blocking:heartbeat:a", b"coordinator:activity:a"),
    ],
)
def test_what_only_one_id_can_own(key: bytes) -> None:
    """So that it may go where somebody else's heartbeat is out of sight."""
    surely_one = key.startswith((b"blocking:signal:", b"coordinator:activity:", b"blocking:ack:"))
    assert keys.names_one_id(key) == surely_one
    assert not keys.names_one_id(b"blocking:ack:a:1:s")


@pytest.mark.parametrize("family", keys.FAMILIES)
def test_a_scan_finds_every_family(family: bytes) -> None:
    name = (family + b"a:1").decode()
    assert fnmatch.fnmatchcase(name, keys.RELATED_PATTERN.decode())


def test_ids_that_are_no_text_are_printable() -> None:
    assert keys.text(b"k\xc3\xb6ln") == "köln"
    assert keys.text(b"\xff\xed\xa0\x80") == "\\xff\\xed\\xa0\\x80"
