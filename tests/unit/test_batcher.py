"""How what is held is cut into batches: the order of the groups, their guards, and their sizes."""

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cleanup_tasks.engines.batch import Batch
from cleanup_tasks.rules import keys
from cleanup_tasks.sweep.batcher import WHOLE_KEYS, Batcher, Joined
from cleanup_tasks.sweep.fleet import Due, Fleet

BATCH_KEYS = 300
JUDGED_MS = 1_800_000_000_000
BEAT, WORK, SIGHTED = b"1000000000001", b"1000000000002", b"1000000000003"


def stale(id_: bytes, *own: bytes) -> Due:
    due = Due(id_, BEAT, WORK)
    due.keys += own
    return due


def orphan(id_: bytes, *own: bytes) -> Due:
    due = Due(id_, None, b"", SIGHTED)
    due.keys += own
    return due


def share(record: bytes, *owners: Due, absent: Iterable[bytes] = ()) -> None:
    """Have the first of these hold a record."""
    owners[0].records[record] = owners[1:], list(absent)


def stream_of(
    *coordinators: Due, batch_keys: int = BATCH_KEYS, absent: Any = None, **options: Any
) -> list[Batch | None]:
    """All batches for these, in this order, and where all before has to be over."""
    fleet = Fleet()
    fleet.add_stale(coordinators, JUDGED_MS)
    fleet.gone = options.pop("gone", set())
    given = {"dry_run": False, "keep_heartbeats": False, "blocked": set(), **options}
    return list(Batcher(fleet, absent or {}, batch_keys, **given).batches(coordinators))


def batches_in(stream: Iterable[Batch | None]) -> list[Batch]:
    return [batch for batch in stream if batch is not None]


def cut(*coordinators: Due, **options: Any) -> list[Batch]:
    """All batches for these, in this order."""
    return batches_in(stream_of(*coordinators, **options))


def guards_of(batch: Batch, group: int) -> set[tuple[bytes, ...]]:
    """The guards of a group: key and value, hash and field and value, or only the key that must not exist."""
    values = zip(batch.values, batch.expected, strict=True)
    guards = [*values, *batch.fields, *((key,) for key in batch.absent)]
    by_number = dict(zip(batch.numbers(), guards, strict=True))
    return {by_number[number] for number in batch.group_guards[group]}


def guards_by_heartbeat(id_: bytes, activity: bytes = WORK) -> set[tuple[bytes, ...]]:
    return {(keys.heartbeat(id_), BEAT), (keys.activity(id_), activity)}


def batch_of(due: Due, batches: list[Batch]) -> Batch:
    """The one that holds a coordinator's heartbeat."""
    (batch,) = [batch for batch in batches if due in batch.subjects]
    return batch


def waits_between(stream: list[Batch | None], part: Batch, end: Batch) -> bool:
    """Whether all is over up to a batch before another begins."""
    return None in stream[stream.index(part) : stream.index(end)]


def all_groups(batches: Iterable[Batch]) -> list[list[bytes]]:
    return [group for batch in batches for group in batch.group_keys()]


def test_a_coordinator_is_one_group_with_its_heartbeat_last() -> None:
    (batch,) = cut(stale(b"a", b"blocking:ack:a:1", b"blocking:ack:a:1"))
    (group,) = batch.group_keys()
    assert group[-1] == keys.heartbeat(b"a")
    # Signal and activity go though no scan saw them, and nothing is named twice
    assert sorted(group) == sorted(
        [b"blocking:ack:a:1", *(family + b"a" for family in keys.WHOLE_ID), keys.heartbeat(b"a")]
    )
    assert guards_of(batch, 0) == guards_by_heartbeat(b"a")
    assert (batch.judged_at_ms, batch.dry_run) == (JUDGED_MS, False)
    assert [subject.id for subject in batch.subjects] == [b"a"]


def test_an_orphan_is_guarded_by_its_sighting() -> None:
    (batch,) = cut(orphan(b"a"), orphan(b"b"))
    assert guards_of(batch, 0) == {
        (keys.heartbeat(b"a"),),
        (keys.activity(b"a"), b""),
        (keys.SIGHTINGS, b"a", SIGHTED),
    }
    assert keys.heartbeat(b"a") not in batch.keys


def test_the_last_of_an_orphan_is_what_it_is_judged_by() -> None:
    (batch,) = cut(orphan(b"a", b"blocking:ack:a:1"))
    assert batch.group_keys()[0][-1] == keys.activity(b"a") in batch.values


def test_a_record_is_guarded_by_all_that_own_it() -> None:
    a, b = stale(b"a"), orphan(b"b")
    record = b"blocking:idempotency:a:b:x:done:1:2"
    share(record, a, b, absent=[b"x"])
    batch, *_ = cut(a, b, absent={b"x": b"old"})
    assert batch.group_keys()[0] == [record]
    assert batch.subjects[0] == (a, b)
    assert guards_of(batch, 0) == guards_by_heartbeat(b"a") | {
        (keys.heartbeat(b"b"),),
        (keys.activity(b"b"), b""),
        (keys.SIGHTINGS, b"b", SIGHTED),
        (keys.heartbeat(b"x"),),
        (keys.activity(b"x"), b"old"),
    }


def test_a_guard_is_asked_for_once_in_a_batch() -> None:
    hub, *others = (stale(b"%d" % number) for number in range(20))
    for other in others:
        share(b"blocking:idempotency:0:%s:done:1:2" % other.id, hub, other)
    (batch,) = cut(hub, *others)
    assert len(batch.values) == len(set(batch.values)) == 2 * 20
    assert batch.absent == []
    assert all(len(guards) == 4 for guards in batch.group_guards[: len(others)])


def test_a_record_goes_in_one_group_with_the_last_of_its_owners() -> None:
    a, b, c, d = (stale(id_) for id_ in (b"a", b"b", b"c", b"d"))
    with_a, with_c = b"blocking:idempotency:a:b:done:1:2", b"blocking:idempotency:c:b:done:1:2"
    share(with_a, b, a)
    share(with_c, b, c)
    a.has_gone = True
    (batch,) = cut(b, c, d)
    # the one who has gone must be absent still, and whoever is there yet is compared by value
    separate, last, *_ = batch.group_keys()
    assert (separate, batch.subjects[0]) == ([with_c], (b, c))
    assert (last[0], last[-1], batch.subjects[1]) == (with_a, keys.heartbeat(b"b"), Joined((b,)))
    gone = {(keys.heartbeat(b"a"),), (keys.activity(b"a"),)}
    assert guards_of(batch, 1) == guards_by_heartbeat(b"b") | gone
    # when one of all has changed, each goes alone
    split, alone, *_ = cut(b, joins=False)[0].group_keys()
    assert (split, with_a in alone) == ([with_a], False)


def test_a_record_waits_until_it_is_known_what_became_of_the_other_owner() -> None:
    a, b = stale(b"a"), stale(b"b")
    share(b"blocking:idempotency:a:b:done:1:2", b, a)
    stream: list[Batch | None] = []
    for batch in Batcher(Fleet(), {}, 1, dry_run=False, keep_heartbeats=False, blocked=set()).batches([a, b]):
        stream.append(batch)
        if batch is None:
            a.has_gone = True
    assert [batch and batch.subjects for batch in stream] == [[a], None, [Joined((b,))]]


def test_what_goes_in_parts_is_guarded_by_all_that_own_it() -> None:
    """A part is guarded by its coordinator alone, so no record of others may be in it."""
    a, b = stale(b"a"), stale(b"b")
    records = [b"blocking:idempotency:a:b:done:%d:2" % number for number in range(WHOLE_KEYS + 1)]
    for record in records:
        share(record, b, a)
    a.has_gone = True
    gone = {(keys.heartbeat(b"a"),), (keys.activity(b"a"),)}
    found = 0
    for batch in cut(b, batch_keys=4 * WHOLE_KEYS):
        for number, group in enumerate(batch.group_keys()):
            if not set(records).isdisjoint(group):
                found += len(group)
                assert guards_of(batch, number) >= gone
    assert found == len(records)


def test_in_a_dry_run_whoever_would_be_gone_is_no_guard() -> None:
    """Of an earlier generation: a real sweep would have deleted what it is judged by."""
    a = stale(b"a")
    share(b"blocking:idempotency:a:b:done:1:2", a, absent=[b"b"])
    for dry_run, more in ((True, 0), (False, 2)):
        (batch,) = cut(a, absent={b"b": b""}, gone={b"b"}, dry_run=dry_run)
        assert len(batch.group_guards[0]) == 2 + more
        assert batch.dry_run == dry_run


def test_batches_are_filled_evenly() -> None:
    stream = stream_of(*(stale(b"c%d" % number, b"blocking:ack:c%d:s" % number) for number in range(5_000)))
    assert None not in stream
    batches = batches_in(stream)
    assert sum(len(batch.keys) for batch in batches) == 5_000 * (2 + len(keys.WHOLE_ID))
    assert all(BATCH_KEYS <= batch.load < BATCH_KEYS + 4 + len(keys.WHOLE_ID) for batch in batches[:-1])


def test_a_long_value_weighs_as_much_as_many_keys() -> None:
    coordinators = [Due(b"c%d" % number, b"x" * 60_000, b"") for number in range(50)]
    batches = cut(*coordinators)
    assert all(len(batch.subjects) <= BATCH_KEYS // 60 + 1 for batch in batches)


def test_so_many_owners_are_guards_of_one_group() -> None:
    holder = stale(b"z")
    others = [stale(b"%d" % number) for number in range(3 * 8)]
    for number in range(8):
        share(b"blocking:idempotency:%d" % number, holder, *others[3 * number : 3 * number + 3])
    for other in others:
        other.has_gone = True
    for batch_keys, most in ((30, 2 + 2 * len(others)), (20, 2 + 2 * 3)):
        batches = cut(holder, batch_keys=batch_keys)
        assert max(len(guards) for batch in batches for guards in batch.group_guards) == most


def test_more_keys_than_a_batch_wait_for_the_records_before() -> None:
    """One of them may be given up, and then the heartbeat has to stay."""
    big = stale(b"big", *(b"blocking:ack:big:%d" % number for number in range(2 * BATCH_KEYS)))
    record = b"blocking:idempotency:big:other:done:1:2"
    share(record, big, stale(b"other"))
    stream = stream_of(big)
    (before,) = [batch for batch in batches_in(stream) if record in batch.keys]
    assert waits_between(stream, before, batch_of(big, batches_in(stream)))


def test_so_many_keys_go_in_one_step() -> None:
    own = [b"blocking:ack:big:%d" % number for number in range(WHOLE_KEYS)]
    small, big, last = stale(b"small"), stale(b"big", *own), stale(b"last")
    batches = cut(small, big, last)
    whole = batch_of(big, batches)
    assert big not in [subject for batch in batches if batch is not whole for subject in batch.subjects]
    assert whole.group_keys()[whole.subjects.index(big)][: len(own)] == own
    assert small not in whole.subjects, "a step of this size has nobody before it"


def test_one_key_more_goes_in_parts_with_the_heartbeat_last() -> None:
    own = [b"blocking:ack:big:%d" % number for number in range(WHOLE_KEYS + 1)]
    big = stale(b"big", *own)
    stream = stream_of(stale(b"small"), big, stale(b"last"))
    batches = batches_in(stream)
    parts = [batch for batch in batches if (big,) in batch.subjects]
    assert [key for batch in parts for key in batch.keys] == own
    assert all(len(batch.keys) <= BATCH_KEYS for batch in parts)
    assert all(guards_of(batch, 0) == guards_by_heartbeat(b"big") for batch in parts)
    # What holds the heartbeat begins when all parts are over, for one of them may be given up
    end = batch_of(big, batches)
    assert waits_between(stream, parts[-1], end)
    assert end.group_keys()[end.subjects.index(big)][-1] == keys.heartbeat(b"big")


def test_a_hub_waits_for_its_records_in_other_batches() -> None:
    hub = stale(b"hub")
    others = [stale(b"w%d" % number) for number in range(3_000)]
    for other in others:
        share(b"blocking:idempotency:hub:%s:done:1:2" % other.id, hub, other)
    stream = stream_of(hub, *others)
    batches = batches_in(stream)
    last = [batch for batch in batches if any(key.startswith(keys.IDEMPOTENCY) for key in batch.keys)][-2]
    assert waits_between(stream, last, batch_of(hub, batches))
    assert max(len(batch.keys) for batch in batches) < 4 * BATCH_KEYS


def test_who_is_blocked_keeps_all_and_whoever_is_blocked_meanwhile() -> None:
    blocked = {b"a"}
    fleet = Fleet()
    due = [stale(b"%d" % number) for number in range(200)]
    batches = Batcher(fleet, {}, BATCH_KEYS, dry_run=False, keep_heartbeats=False, blocked=blocked).batches(
        [stale(b"a"), *due]
    )
    first = next(batches)
    blocked.add(b"150")
    ids = {subject.id for batch in batches_in([first, *batches]) for subject in batch.subjects}
    assert ids == {one.id for one in due} - {b"150"}


def test_what_a_blocked_one_shares_goes_all_the_same() -> None:
    """Else nobody would find it any more once its other owners have gone."""
    a, b = stale(b"a", b"blocking:ack:a:1"), stale(b"b")
    record = b"blocking:idempotency:a:b:done:1:2"
    share(record, a, b)
    (batch,) = cut(a, b, blocked={b"a"})
    assert batch.group_keys()[0] == [record]
    assert batch.subjects == [(a, b), b]


def test_who_is_blocked_by_one_of_its_parts_keeps_its_heartbeat() -> None:
    blocked: set[bytes] = set()
    gone: set[bytes] = set()
    big = stale(b"big", *(b"blocking:ack:big:%d" % number for number in range(WHOLE_KEYS + 1)))
    batcher = Batcher(Fleet(), {}, BATCH_KEYS, dry_run=False, keep_heartbeats=False, blocked=blocked)
    for batch in batcher.batches([big, stale(b"last")]):
        if batch is None:
            blocked.add(b"big")
        else:
            gone.update(batch.keys)
    assert keys.heartbeat(b"last") in gone
    assert gone.isdisjoint({keys.heartbeat(b"big"), keys.activity(b"big"), keys.signal(b"big")})


def test_heartbeats_are_kept_where_not_all_could_be_seen() -> None:
    (batch,) = cut(stale(b"a", b"blocking:ack:a:1"), keep_heartbeats=True)
    own = [family + b"a" for family in keys.WHOLE_ID if family != keys.ACTIVITY]
    assert sorted(batch.keys) == sorted([b"blocking:ack:a:1", *own])
    # so nobody counts as reaped
    assert [subject.id for subject in batch.subjects[0]] == [b"a"]


def test_a_batch_of_nothing_is_not_made() -> None:
    assert cut() == []
    assert cut(stale(b"a"), blocked={b"a"}) == []


@st.composite
def fleets(draw: st.DrawFn) -> list[Due]:
    """Coordinators with few or many keys, and records that pairs and threes of them share."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 7, 30, 70]), min_size=3, max_size=12))
    coordinators = [
        stale(b"%d" % number, *(b"blocking:ack:%d:%d" % (number, ack) for ack in range(size)))
        for number, size in enumerate(sizes)
    ]
    number = st.integers(0, len(sizes) - 1)
    for record, owners in enumerate(draw(st.lists(st.sets(number, min_size=2, max_size=3), max_size=40))):
        share(b"blocking:idempotency:%d" % record, *(coordinators[owner] for owner in sorted(owners)))
    return coordinators


@given(coordinators=fleets())
@settings(max_examples=80, deadline=None)
def test_whatever_is_held_goes_once_and_in_order(coordinators: list[Due]) -> None:
    batches = cut(*coordinators, batch_keys=20)
    groups = all_groups(batches)
    place = {key: number for number, group in enumerate(groups) for key in group}
    assert len(place) == sum(map(len, groups)), "nothing goes twice"
    records = {record: owners for due in coordinators for record, (owners, _) in due.records.items()}
    for record, owners in records.items():
        # A record goes before the heartbeats of all that own it, alone, and beside the first of them
        assert all(place[record] < place[keys.heartbeat(due.id)] for due in owners)
        assert groups[place[record]] == [record]
        assert place[record] < place[keys.signal(owners[0].id)]
        assert all(place[record] < place[key] for key in owners[0].keys)
    for due in coordinators:
        assert all(place[key] <= place[keys.heartbeat(due.id)] for key in due.keys)
    assert set(place) == {
        *records,
        *(key for due in coordinators for key in due.keys),
        *(family + due.id for due in coordinators for family in (keys.HEARTBEAT, *keys.WHOLE_ID)),
    }
    for batch in batches:
        for number, subject in enumerate(batch.subjects):
            owners = (subject,) if isinstance(subject, Due) else subject
            assert guards_of(batch, number) == set().union(*(guards_by_heartbeat(due.id) for due in owners))
