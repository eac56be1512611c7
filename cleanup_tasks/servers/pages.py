"""Pages of a scan, of which none is large, however long the names are."""

from collections.abc import Iterable

from cleanup_tasks.servers.pipelining import Command

#: Bytes of names in a page, about. Its COUNT is a number of names, which may have a megabyte each.
PAGE_BYTES = 1_000_000
#: COUNT of the first page, for nobody knows yet how long the names are; and how fast it grows.
FIRST_COUNT, GROWTH = 100, 4


def next_count(count: int, names: Iterable[bytes], most: int) -> int:
    """COUNT of the next page, by what the one before was answered with.

    Args:
        count: of the page before.
        names: what was answered.
        most: what it is at most.
    """
    fitting = count * PAGE_BYTES // max(1, sum(map(len, names)))
    return max(1, min(most, count * GROWTH, fitting))


def scan_command(cursor: bytes, pattern: bytes, count: int) -> Command:
    """One SCAN call, which is answered with the next cursor and the keys that match."""
    return "SCAN", cursor, "MATCH", pattern, "COUNT", str(count)
