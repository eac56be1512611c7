"""Pages of a scan, which are not large for long, however long the names are."""

from collections.abc import Iterable

from cleanup_tasks.servers.pipelining import Command

#: Bytes of names in a page, about. Its COUNT is a number of names, which may have a megabyte each.
PAGE_BYTES = 1_000_000


def next_count(count: int, names: Iterable[bytes], most: int) -> int:
    """COUNT of the next page.

    Args:
        count: that of the page before.
        names: what that was answered with.
        most: what it is where names are short; after a large page it grows back.
    """
    size = sum(map(len, names))
    if size > PAGE_BYTES:
        return max(1, count * PAGE_BYTES // size)
    return min(most, 2 * count) if 2 * size <= PAGE_BYTES else count


def scan_command(cursor: bytes, pattern: bytes, count: int) -> Command:
    """One SCAN call, which is answered with the next cursor and the keys that match."""
    return "SCAN", cursor, "MATCH", pattern, "COUNT", str(count)
