"""Activities: the sign of life of those who give no other."""

from collections.abc import Iterable, Iterator

from cleanup_tasks.rules import keys
from cleanup_tasks.rules.staleness import State, judge_values
from cleanup_tasks.servers.pipelining import Context
from cleanup_tasks.servers.topology import Topology


def read_activities(
    servers: Topology, lots: Iterable[tuple[Context, list[bytes]]], threshold_s: int
) -> Iterator[tuple[Context, int, dict[bytes, State], dict[bytes, bytes]]]:
    """For each lot of ids what came with it, the servers' time in ms, who is at work, and who is not.

    Those who are at work come with what their activity is, those who are not with what was read of it. Who
    can't be asked now is left out.
    """
    stale, unreadable = State.STALE, State.UNREADABLE
    requests = (((context, ids), list(map(keys.activity, ids))) for context, ids in lots)
    for (context, ids), now_ms, values in servers.read(requests):
        if len(values) < len(ids):
            ids = [id_ for id_ in ids if keys.activity(id_) in values]
        states = judge_values(list(values.values()), now_ms, threshold_s)
        working: dict[bytes, State] = {}
        idle: dict[bytes, bytes] = {}
        for id_, value, state in zip(ids, values.values(), states, strict=True):
            if state is stale or state is unreadable:
                idle[id_] = value or b""
            else:
                working[id_] = state
        yield context, now_ms, working, idle
