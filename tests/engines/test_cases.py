"""The tables of cases, on both engines against a real server."""

from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from tests.support.cases import OWNERSHIP, STALENESS, write_ownership, write_staleness
from tests.support.sweeping import NamedEngine, all_keys, sweep


def test_staleness(client: Redis, engine: NamedEngine) -> None:
    # Given a coordinator for each row
    now_ms = server_time_ms(client)
    ids = [b"%d" % number for number in range(len(STALENESS))]
    for id_, row in zip(ids, STALENESS, strict=True):
        write_staleness(client, row, id_, now_ms)
    before = all_keys(client)
    # When all are swept
    report = sweep(client, engine)
    # Then each is counted as what it is, and goes only if it is stale
    left = all_keys(client)
    wrong = [
        row["name"]
        for id_, row in zip(ids, STALENESS, strict=True)
        if {keys.heartbeat(id_), keys.activity(id_)} & left
        != (set() if row["verdict"] == "stale" else {keys.heartbeat(id_), keys.activity(id_)} & before)
    ]
    assert wrong == []
    verdicts = [row["verdict"] for row in STALENESS]
    assert report.stale_coordinators_found == verdicts.count("stale")
    assert report.active_coordinators == verdicts.count("active")
    assert report.unreadable_heartbeats == verdicts.count("unreadable")
    assert report.keys_deleted == len(before) - len(left)
    assert report.implementation == engine.name


def test_ownership(client: Redis, engine: NamedEngine) -> None:
    wrong = []
    for row in OWNERSHIP:
        before, doomed = write_ownership(client, row)
        # A dry run chooses the same keys and takes none.
        announced = sweep(client, engine, dry_run=True)
        untouched = all_keys(client) == before
        report = sweep(client, engine)
        gone = before - all_keys(client)
        told = announced.keys_deleted, report.keys_deleted, report.complete
        if gone != doomed or not untouched or told != (len(doomed), len(doomed), True):
            wrong.append((row["name"], sorted(gone ^ doomed), untouched, told))
    assert wrong == []
