"""Ids that are the beginning of others: who has no heartbeat is known by a signal or an activity alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from unittest import mock

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import Limits
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.sweep import fleet
from tests.support.sweeping import NamedEngine, all_keys, clean, new_report

LIMITS = Limits(scan_count=10, read_keys=2, batch_keys=300, in_flight=2)
#: What may be taken for keys of "team", which is stale.
OF_TEAM_40 = {
    keys.ACK + b"team:40:stop",
    keys.IDEMPOTENCY + b"team:40:init",
    keys.signal(b"team:40"),
    keys.activity(b"team:40"),
}


def small_generations() -> AbstractContextManager[object]:
    return mock.patch.multiple(fleet, MAX_COORDINATOR_BYTES=800, MIN_JUDGED_AGAIN=1)


@pytest.mark.parametrize("generations", [nullcontext, small_generations], ids=["one", "many"])
@pytest.mark.parametrize("orphans", ["off", "report", "reap"])
@pytest.mark.parametrize("are_sightings_readable", [True, False])
def test_who_works_without_a_heartbeat_keeps_what_may_be_taken_for_anothers(
    client: Redis,
    engine: NamedEngine,
    generations: Callable[[], AbstractContextManager[object]],
    orphans: str,
    are_sightings_readable: bool,
) -> None:
    now_ms = server_time_ms(client)
    stale = [b"team", b"other:1", *(b"x%d" % number for number in range(8))]
    client.mset(dict.fromkeys(map(keys.heartbeat, stale), now_ms - 700_000))
    client.mset(dict.fromkeys(OF_TEAM_40, now_ms))
    if not are_sightings_readable:
        client.set(keys.SIGHTINGS, "a string")
    report = new_report(engine.name)
    with generations(), SingleServer(client) as servers, suppress(ResponseError):
        servers.limits = LIMITS
        clean(servers, engine, report, orphans=orphans)
    assert all_keys(client) & OF_TEAM_40 == OF_TEAM_40
    assert report.reaped == len(stale)
