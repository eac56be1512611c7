"""Servers that came up with old data, or took over from another, a moment ago."""

import math
import re
import time
from collections.abc import Mapping
from typing import Any

#: INFO, as redis-py reads it.
Info = Mapping[str, Any]

#: Replication id of each primary that this process has swept -> when it was first seen, if it had taken over
#: from another of them, on the monotonic clock; else long ago.
_primaries: dict[str, float] = {}


def reason_to_wait(info: Info, grace_s: int) -> str | None:
    """Why a server should be left alone for now, or None.

    Args:
        info: what it says about itself.
        grace_s: how long ago in seconds it may have come up, or taken over.
    """
    if info.get("role") != "master":
        return None  # a replica has what its primary has, and is only looked at
    up_s = int(info.get("uptime_in_seconds", grace_s))
    if up_s < grace_s and _has_loaded(info, up_s):
        return f"Redis came up {up_s} s ago with earlier data, so it is left alone for {grace_s} s"
    took_over_s = time.monotonic() - _took_over_at(info)
    if took_over_s < grace_s:
        return f"this Redis has taken over from another just now, so it is left alone for {grace_s} s"
    return None


def _has_loaded(info: Info, up_s: int) -> bool:
    """Whether it had data when it came up; from its disk, or from a primary that it has replaced."""
    if info.get("aof_base_size", 0) > 0 or info.get("second_repl_offset", -1) > 0:
        return True
    if "rdb_last_load_keys_loaded" in info:  # from 7.0 on
        return bool(info["rdb_last_load_keys_loaded"] > 0)
    # what was written since, and not saved meanwhile, is counted
    keys = sum(value["keys"] for name, value in info.items() if re.fullmatch(r"db\d+", name))
    came_up_s = info.get("server_time_usec", math.inf) // 1_000_000 - up_s
    is_saved = info.get("rdb_last_save_time", 0) > came_up_s
    return not is_saved and keys > info.get("rdb_changes_since_last_save", keys)


def _took_over_at(info: Info) -> float:
    now, before = info.get("master_replid"), info.get("master_replid2")
    if now is None:
        return -math.inf
    return _primaries.setdefault(now, time.monotonic() if before in _primaries else -math.inf)
