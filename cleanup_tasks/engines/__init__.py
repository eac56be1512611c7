"""Engines: delete groups of keys whose guards are unchanged, and nothing else.

An engine takes batches and answers in the same order. It knows no coordinator and no rule: who may go was
judged before, and is told by the guards.
"""

from collections.abc import Callable
from functools import partial

from redis import Redis

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.engines.cluster import ClusterEngine
from cleanup_tasks.engines.engine import Engine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.servers.cluster import Cluster
from cleanup_tasks.servers.topology import Topology

_ENGINES: dict[EngineName, Callable[[Redis, int], Engine]] = {
    "lua": LuaEngine,
    "python": PythonEngine,
}
#: The same on one primary of a cluster, where many small batches don't depend on each other.
_NODE_ENGINES: dict[EngineName, Callable[[Redis], Engine]] = {
    "lua": partial(LuaEngine, in_flight=10_000),
    "python": partial(PythonEngine, in_flight=32, ordered=False),
}


def engine_for(servers: Topology, name: EngineName) -> Engine:
    """An engine for keys that may be anywhere on these servers; connect them before."""
    if isinstance(servers, Cluster):
        return ClusterEngine(servers, _NODE_ENGINES[name])
    return _ENGINES[name](servers.client_for(b""), servers.limits.in_flight)
