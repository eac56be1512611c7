"""A real cluster: everything that holds on one server, and what is different there."""

from collections.abc import Iterator
from typing import Any

import pytest

from cleanup_tasks import keys
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.report import Report
from cleanup_tasks.sweep import Sweep
from tests.clusters import RunningCluster, running_cluster
from tests.sweeping import THRESHOLD_S, heartbeat_values, script_calls
from tests.test_cases import OWNERSHIP, named

EngineClass = type[LuaEngine] | type[PythonEngine]


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RunningCluster]:
    """One cluster for all tests that leave it as it was."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: RunningCluster) -> RunningCluster:
    """A cluster with nothing in it."""
    shared_cluster.clear()
    return shared_cluster


@pytest.fixture(params=[LuaEngine, PythonEngine], ids=["lua", "python"])
def make(request: pytest.FixtureRequest) -> EngineClass:
    """Each engine's class in turn."""
    engine_class: EngineClass = request.param
    return engine_class


def sweep(cluster: RunningCluster, make: EngineClass, *, dry_run: bool = False) -> Report:
    """Sweep the cluster, and assert by the servers' own counters that this engine ran."""
    before = calls(cluster)
    with cluster.connect() as servers:
        report = Report(implementation=make.name, dry_run=dry_run, stale_threshold_seconds=THRESHOLD_S)
        Sweep(servers, servers.engine(make), report).run()
    ran = calls(cluster) - before
    assert (ran > 0) == (make.name == "lua" and report.stale_coordinators_found > 0)
    return report


def calls(cluster: RunningCluster) -> int:
    """How many EVALSHA calls the primaries counted."""
    total = 0
    for server in cluster.primaries():
        with server.client() as client:
            total += script_calls(client)
    return total


@named(OWNERSHIP["cases"])
def test_ownership(row: dict[str, Any], cluster: RunningCluster, make: EngineClass) -> None:
    beats = {
        keys.heartbeat(id_.encode()): heartbeat_values(cluster.now_ms())[kind]
        for id_, kind in row["heartbeats"].items()
    }
    cluster.set(beats | dict.fromkeys((key.encode() for key in row["keys"]), "1"))
    before = cluster.keys()
    stale = {keys.heartbeat(id_.encode()) for id_, kind in row["heartbeats"].items() if kind == "stale"}
    doomed = stale | {key.encode() for key in row["gone"]}
    # A dry run chooses the same keys and takes none.
    assert sweep(cluster, make, dry_run=True).keys_deleted == len(doomed)
    assert cluster.keys() == before
    report = sweep(cluster, make)
    assert before - cluster.keys() == doomed
    assert report.keys_deleted == len(doomed)
    assert report.complete
    assert report.implementation == make.name
