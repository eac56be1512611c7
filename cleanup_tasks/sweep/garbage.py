"""Sweeps without Python's search for cyclic garbage, which takes a sixth of a large one and finds none."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn it off for the length of a with block.

    Only who found it on switches it on again. So it is in the end as it was, also where several sweeps of one
    process overlap, and where the process had it off.
    """
    was_enabled = gc.isenabled()
    try:  # from here on, for a time limit may strike between any two steps
        gc.disable()
        yield
    finally:
        if was_enabled:
            gc.enable()
