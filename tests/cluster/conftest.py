"""Clusters for the tests."""

from collections.abc import Iterator

import pytest

from cleanup_tasks.engines.batch import EngineName
from tests.support.clusters import RunningCluster, running_cluster


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


@pytest.fixture
def own_cluster() -> Iterator[RunningCluster]:
    """A cluster to be broken."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["lua", "python"])
def name(request: pytest.FixtureRequest) -> EngineName:
    """Each engine's name in turn."""
    engine_name: EngineName = request.param
    return engine_name
