"""Values are read from their beginning on, so that no answer is large, whatever somebody put into a key."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from cleanup_tasks.servers.errors import is_wrong_type
from cleanup_tasks.servers.pipelining import chunks

#: Bytes of a value that are read at most. No rule understands one that is so long, so the rest says nothing.
VALUE_BYTES = 65_537
#: Bytes that are read at first. Nearly all values are shorter, and so many keys are read at once.
FIRST_BYTES = 1_024
#: Longer values that are read at once.
LONG_AT_ONCE = 16

#: A command whose first argument is its only key.
KeyCommand = tuple[str, bytes, *tuple[bytes, ...]]

_LAST_OF_FIRST, _LAST = b"%d" % (FIRST_BYTES - 1), b"%d" % (VALUE_BYTES - 1)


def first_reads(names: Sequence[bytes]) -> list[KeyCommand]:
    """A command for each key; it is answered with the beginning of its value, empty where there is none."""
    return [("GETRANGE", name, b"0", _LAST_OF_FIRST) for name in names]


def compare_reads(names: Iterable[bytes], expected: Iterable[bytes]) -> list[KeyCommand]:
    """A command for each key, answered with no more than shows whether its value is the expected one."""
    return [
        ("GETRANGE", name, b"0", b"%d" % min(len(value), VALUE_BYTES - 1))
        for name, value in zip(names, expected, strict=True)
    ]


def read_on(names: Sequence[bytes], answers: list[Any], ask: Callable[[list[KeyCommand]], list[Any]]) -> None:
    """Put into the answers to `first_reads` what longer values hold, and None for a key that is no string.

    Other errors stay where they are.

    Args:
        names: the keys.
        answers: what was answered about each, errors among it as values.
        ask: has commands answered.
    """
    if set(map(type, answers)) <= {bytes} and max(map(len, answers), default=0) < FIRST_BYTES:
        return  # nearly always
    odd = [
        number
        for number, answer in enumerate(answers)
        if type(answer) is not bytes or len(answer) == FIRST_BYTES
    ]
    long = [number for number in odd if type(answers[number]) is bytes]
    for some in chunks(long, LONG_AT_ONCE):
        again = ask([("GETRANGE", names[number], b"0", _LAST) for number in some])
        for number, answer in zip(some, again, strict=True):
            answers[number] = answer
    for number in odd:
        answer = answers[number]
        if isinstance(answer, ResponseError) and is_wrong_type(answer):
            answers[number] = None
