"""A failover of a primary in the middle of a sweep, or at its end: some of what was deleted may be back."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from redis.exceptions import ReadOnlyError

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.servers import acl, cluster
from cleanup_tasks.servers.errors import is_transient
from cleanup_tasks.servers.pipelining import MANY_SLOTS
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from demo.clusters import PRIMARIES, command
from demo.dataset import KEYS_EACH
from demo.servers import wait_until
from tests.support.clusters import RunningCluster, write_coordinators

IDS = [b"worker-%d" % number for number in range(200)]
Happens = Callable[[int, int], bool]


def fail_over(cluster: RunningCluster, old: int, new: int) -> None:
    """As an operator does for the maintenance of a server; all know of it in the end."""
    ports = (cluster.servers[old].port, cluster.servers[new].port)

    def known() -> bool:
        shown: list[set[int]] = []
        for server in cluster.alive:
            with server.client() as client:
                shown.append({row[2][1] for row in command(client, "CLUSTER SLOTS")})
        return all(ports[1] in each and ports[0] not in each for each in shown)

    with cluster.servers[new].client() as client:
        wait_until(lambda: client.info()["master_link_status"] == "up", "it is in step")
        command(client, "CLUSTER FAILOVER")
    wait_until(known, "all know the new primary")


def in_the_middle(done: int, total: int) -> bool:
    return done < total


def after_the_last_batch(done: int, total: int) -> bool:
    return done == total


def swept(url: str, name: EngineName, when: Happens, act: Callable[[], None]) -> tuple[Sweep, bool]:
    """A sweep in which something happens once, and whether it does not call its deletions lasting."""
    has_happened = False

    def progress(what: str, done: int, total: int) -> None:
        nonlocal has_happened
        if what == "reaping" and when(done, total) and not has_happened:
            has_happened = True
            act()

    # the lock of the sweep before may be out of reach, on the old primary
    sweep = Sweep(Options(address=parse(url), engine=name, owner="me", force=True, progress=progress))
    is_told = False
    try:
        sweep.run()
    except ReadOnlyError as error:
        is_told = is_transient(error) and "may be back" in str(sweep.report.failure)
    assert has_happened
    return sweep, is_told


def test_a_failover_is_told(
    own_cluster: RunningCluster, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given several batches
    monkeypatch.setattr(cluster, "MANY_SLOTS", replace(MANY_SLOTS, batch_keys=300))
    rules = [*acl.rules().split(), *(f"+{command}" for command in acl.CLUSTER), "-info"]
    for server in own_cluster.servers:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "cleanup", "reset", "on", ">p", *rules)
    without_info = own_cluster.url.replace("://", "://cleanup:p@")

    def there_and_back() -> None:
        fail_over(own_cluster, 2, 2 + PRIMARIES)
        fail_over(own_cluster, 2 + PRIMARIES, 2)

    rounds: list[tuple[str, Happens, Callable[[], None]]] = [
        (own_cluster.url, in_the_middle, lambda: fail_over(own_cluster, 0, PRIMARIES)),
        (own_cluster.url, after_the_last_batch, lambda: fail_over(own_cluster, 1, 1 + PRIMARIES)),
        # who has the slots says it, without INFO
        (without_info, after_the_last_batch, lambda: fail_over(own_cluster, PRIMARIES, 0)),
        # INFO says it, where each has its slots back
        (own_cluster.url, after_the_last_batch, there_and_back),
    ]
    for url, when, act in rounds:
        write_coordinators(own_cluster, IDS)
        sweep, is_told = swept(url, name, when, act)
        report = sweep.report
        assert is_told
        assert (report.complete, report.cleanup_errors) == (False, 1)
        assert report.keys_deleted == KEYS_EACH * len(IDS)
    # A sweep without a failover says that all is well
    write_coordinators(own_cluster, IDS)
    sweep, is_told = swept(own_cluster.url, name, in_the_middle, lambda: None)
    assert (sweep.report.complete, sweep.report.cleanup_errors, is_told) == (True, 0, False)
