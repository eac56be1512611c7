"""Servers that came up with old data, or took over from another, a moment ago."""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import ReadOnlyError

#: INFO, as redis-py reads it.
Info = Mapping[str, Any]

#: The next primary undoes what one that was cut off has done, or did not pass on; so does a start anew.
REPLACED = "Redis was replaced by another server, or started anew, so some of what was deleted may be back"

#: Address -> the run ids of the primaries that this process has found there last, and since when on the
#: monotonic clock; those that it found first have been there for long, as far as it knows.
_answering: dict[str, dict[str, float]] = {}


def note_loading(address: str) -> None:
    """Note that no primary has been there for long, for it loads its data."""
    _answering[address] = {}


def reason_to_wait(address: str, infos: Sequence[Info], grace_s: int) -> str | None:
    """Why the servers at an address should be left alone for now, or None.

    Args:
        address: where they are.
        infos: what each primary says about itself.
        grace_s: how long ago in seconds one may have come up, or taken over.
    """
    # a replica has what its primary has, and is only looked at
    primaries = {info.get("run_id", ""): info for info in infos if info.get("role") == "master"}
    now_s = time.monotonic()
    before, is_first = _answering.get(address, {}), address not in _answering
    since = {run_id: before.get(run_id, -math.inf if is_first else now_s) for run_id in primaries}
    _answering[address] = since
    reasons = (_reason(info, now_s - since[run_id], grace_s) for run_id, info in primaries.items())
    return next(filter(None, reasons), None)


def check_still_primaries(before: Iterable[Info], after: Iterable[Info]) -> None:
    """Raise ReadOnlyError where a server is not the primary any more, without a break, that it was.

    Args:
        before: what each primary has said about itself.
        after: what the same servers say later; one that is lost is left out.
    """
    primaries = {info.get("run_id"): info for info in after if info.get("role") == "master"}
    for info in before:
        now = primaries.get(info.get("run_id"))
        if now is None or _last_takeover(now) not in (None, _last_takeover(info)):
            raise ReadOnlyError(REPLACED)


def _last_takeover(info: Info) -> tuple[object, ...] | None:
    """What tells the last time that a server took over from another, or None where it has not, or forgot it.

    Its own replication id changes at other times too, as with its first replica.
    """
    offset = info.get("second_repl_offset", -1)
    return (info.get("master_replid2"), offset) if offset > 0 else None


def _reason(info: Info, answers_s: float, grace_s: int) -> str | None:
    up_s = int(info.get("uptime_in_seconds", grace_s))
    if min(up_s, answers_s) >= grace_s or not _has_loaded(info, up_s):
        return None
    if up_s >= grace_s and _last_takeover(info):
        return f"this Redis has taken over from another just now, so it is left alone for {grace_s} s"
    # to load its data may have taken it longer than that
    seconds = int(min(up_s, answers_s))
    return f"Redis came up {seconds} s ago with earlier data, so it is left alone for {grace_s} s"


def _has_loaded(info: Info, up_s: int) -> bool:
    """Whether it had data when it came up; from its disk, or from a primary that it has replaced."""
    if _last_takeover(info):
        return True
    if info.get("aof_enabled") and info.get("aof_current_size", 0) > 0:
        return True  # it doesn't say how much of that was there before
    if "rdb_last_load_keys_loaded" in info:  # from 7.0 on
        return bool(info["rdb_last_load_keys_loaded"] > 0)
    # what was written since, and not saved meanwhile, is counted
    keys = sum(value["keys"] for name, value in info.items() if re.fullmatch(r"db\d+", name))
    came_up_s = info.get("server_time_usec", math.inf) // 1_000_000 - up_s
    is_saved = info.get("rdb_last_save_time", 0) > came_up_s
    return not is_saved and keys > info.get("rdb_changes_since_last_save", keys)
