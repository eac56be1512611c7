"""One sweep at a time: an owner's lock, renewed, never freed by another, gone by itself."""

import itertools
import logging
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.lock import SweepLock
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import LOCKED, Sweep
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, running_server, wait_until


def test_one_owner_at_a_time(client: Redis) -> None:
    with SweepLock(client, "one") as first:
        assert first.acquire()
        second = SweepLock(client, "two")
        assert not second.acquire()
        second.release()
        assert client.get(keys.LOCK) == b"one"
    assert not client.exists(keys.LOCK)
    assert SweepLock(client, "two").acquire()


def test_the_next_attempt_gets_it_and_no_other_copy_of_it(client: Redis) -> None:
    """A retry is not blocked by its own first attempt, which could not free the lock."""
    assert SweepLock(client, "first").acquire()
    client.pexpire(keys.LOCK, 1_000)
    retry, copy = (SweepLock(client, owner, previous_owner="first") for owner in ("retry", "copy"))
    assert retry.acquire()
    assert client.pttl(keys.LOCK) > 20_000
    # the message of the retry may be delivered twice
    assert not copy.acquire()
    assert not SweepLock(client, "copy of the first").acquire()
    copy.release()
    assert client.get(keys.LOCK) == b"retry"
    retry.release()
    assert not client.exists(keys.LOCK)


def test_two_copies_of_a_message_do_not_sweep_side_by_side(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    copies: list[Report] = []

    def begin_the_copy(*_: object) -> None:
        if not copies:
            copies.append(run(server, previous_owner="the attempt before"))

    client.set(keys.LOCK, "the attempt before", px=10_000)
    report = run(server, previous_owner="the attempt before", progress=begin_the_copy)
    assert (report.keys_deleted, report.complete) == (90 * KEYS_EACH, True)
    assert [(copy.skipped, copy.keys_deleted, copy.complete) for copy in copies] == [(LOCKED, 0, False)]


@pytest.mark.every_server
@pytest.mark.parametrize("ttl_ms", [None, 10**9, 5_000])
def test_anothers_lock_has_an_end(client: Redis, ttl_ms: int | None) -> None:
    """Else it would be in everybody's way for ever, be it by somebody's PERSIST."""
    client.set(keys.LOCK, "somebody", px=ttl_ms)
    assert not SweepLock(client, "one", ttl_s=20).acquire()
    assert 0 < client.pttl(keys.LOCK) <= min(20_000, ttl_ms or 20_000)
    assert client.get(keys.LOCK) == b"somebody"


@pytest.mark.every_server
def test_it_is_not_freed_without_a_transaction(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Where MULTI is refused, a deletion sent behind it would take the lock from whoever has it by then."""
    client.acl_setuser("user", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-multi"])
    try:
        with server.client(username="user", password="any") as user:
            lock = SweepLock(user, "one")
            assert lock.acquire()
            lock.release()
            assert "frees itself" in caplog.text
            assert client.get(keys.LOCK) == b"one"
            assert user.ping()
    finally:
        client.acl_deluser("user")


def test_it_frees_itself(client: Redis) -> None:
    assert SweepLock(client, "killed", ttl_s=0.2).acquire()
    other = SweepLock(client, "other")
    wait_until(other.acquire, "the lock of a killed owner is free", seconds=5)


def test_it_is_renewed_while_the_sweep_runs(client: Redis) -> None:
    lock = SweepLock(client, "one", ttl_s=0.6)
    assert lock.acquire()
    ttls = [client.pttl(keys.LOCK)]

    def renewed() -> bool:
        lock.renew()
        ttls.append(client.pttl(keys.LOCK))
        return len([1 for before, after in itertools.pairwise(ttls) if after > before]) == 3

    wait_until(renewed, "the lock was renewed three times", seconds=5)
    assert min(ttls) > 0
    lock.release()
    assert not client.exists(keys.LOCK)


def test_a_lost_lock_is_not_taken_from_another(client: Redis, caplog: pytest.LogCaptureFixture) -> None:
    lock = SweepLock(client, "one", ttl_s=0.3)
    assert lock.acquire()
    client.set(keys.LOCK, "two")

    def noticed() -> bool:
        lock.renew()
        return "lost" in caplog.text

    wait_until(noticed, "the owner notices", seconds=5)
    lock.release()
    assert client.get(keys.LOCK) == b"two"
    assert client.ttl(keys.LOCK) == -1


@pytest.mark.parametrize("by", ["lua", "python"])
def test_a_full_memory_costs_a_warning_not_the_sweep(
    by: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    with running_server() as server, server.client() as client:
        write_acceptance_data(client, 100, 10)
        client.config_set("maxmemory", "1")
        with caplog.at_level(logging.WARNING):
            report = run(server, engine=by)
        assert "lock can't be written" in caplog.text
        assert (report.keys_deleted, report.complete) == (90 * KEYS_EACH, True)
        assert client.dbsize() == 10 * KEYS_EACH


def test_a_run_that_finds_it_held_ends_well(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    client.set(keys.LOCK, "somebody")
    report = run(server)
    assert (report.skipped, report.complete, report.keys_deleted) == (LOCKED, False, 0)
    assert client.dbsize() == 100 * KEYS_EACH + 1 + client.exists(keys.SKIPPED)


def test_somebodys_key_in_its_place_costs_a_warning(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    write_acceptance_data(client, 100, 10)
    client.rpush(keys.LOCK, "not ours")
    assert run(server).complete
    assert "another type" in caplog.text
    assert client.dbsize() == 10 * KEYS_EACH + 1


def test_a_dry_run_takes_no_lock(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    seen = []
    run(server, dry_run=True, progress=lambda *_: seen.append(client.exists(keys.LOCK)))
    assert seen
    assert not any(seen)


def test_a_real_run_holds_it_throughout(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    seen = []
    run(server, owner="me", progress=lambda *_: seen.append(client.get(keys.LOCK)))
    assert set(seen) == {b"me"}
    assert not client.exists(keys.LOCK)


def run(server: Server, **options: Any) -> Report:
    """The report of a whole sweep, as the tasks do it."""
    return Sweep(Options(address=parse(server.url), **options)).run()
