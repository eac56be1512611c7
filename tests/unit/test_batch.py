"""A batch: the numbers of its guards, and their copies in another batch."""

from redis.exceptions import ResponseError

from cleanup_tasks.engines.batch import Batch


def batch_of_all_kinds() -> Batch:
    batch = Batch(1)
    batch.add_values([b"v0", b"v1"], [b"one", b""])
    for name in (b"f0", b"f1"):
        batch.add_field(b"hash", name, b"of " + name)
    batch.add_absent([b"a0", b"a1"])
    return batch


def test_a_copied_guard_is_the_same_guard() -> None:
    batch = batch_of_all_kinds()
    copies = Batch(1)
    # in the other order, so that no number is the same by chance
    numbers = {number: copies.copy_guard(number, batch) for number in reversed([*batch.numbers()])}
    for number, copy in numbers.items():
        alone, copied = Batch(1), Batch(1)
        alone.copy_guard(number, batch)
        copied.copy_guard(copy, copies)
        assert alone.questions() == copied.questions()
        assert (alone.expected, alone.fields) == (copied.expected, copied.fields)
    assert copies.guarded() == [b"v1", b"v0", b"hash", b"hash", b"a1", b"a0"]
    assert [name for _, name, _ in copies.fields] == [b"f1", b"f0"]


def test_each_answer_is_about_its_own_guard() -> None:
    batch = batch_of_all_kinds()
    as_expected = [b"one", b"", [b"of f0"], [b"of f1"], 0, 0]
    assert batch.changed(as_expected) == set()
    wrong_type = ResponseError("WRONGTYPE")
    other = [b"two", b"x", [b"of f1"], [None], 1, 1]
    for at, number in enumerate(batch.numbers()):
        for answer in (other[at], wrong_type):
            # an empty value is also expected of a key of another type
            changed = set() if (answer, batch.guarded()[at]) == (wrong_type, b"v1") else {number}
            assert batch.changed([*as_expected[:at], answer, *as_expected[at + 1 :]]) == changed
