"""One sweep at a time: an owner's lock, renewed, never freed by another, gone by itself."""

import itertools
import logging

import pytest
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.lock import SweepLock
from cleanup_tasks.options import Options
from cleanup_tasks.run import LOCKED, Run
from cleanup_tasks.settings import load_settings
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


def test_the_same_owner_gets_it_again(client: Redis) -> None:
    """A retry is not blocked by its own first attempt, which could not free the lock."""
    assert SweepLock(client, "task-id").acquire()
    client.pexpire(keys.LOCK, 1_000)
    retry = SweepLock(client, "task-id")
    assert retry.acquire()
    assert client.pttl(keys.LOCK) > 20_000


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


@pytest.mark.parametrize("reason", [None, "requested"], ids=["lua", "python"])
def test_a_full_memory_costs_a_warning_not_the_sweep(
    reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with running_server() as server, server.client() as client:
        write_acceptance_data(client, 100, 10)
        client.config_set("maxmemory", "1")
        with caplog.at_level(logging.WARNING):
            report = run(server, reason)
        assert "lock can't be written" in caplog.text
        assert (report["keysDeleted"], report["complete"]) == (90 * KEYS_EACH, True)
        assert client.dbsize() == 10 * KEYS_EACH


def test_a_run_that_finds_it_held_ends_well(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    client.set(keys.LOCK, "somebody")
    metrics = run(server, None)
    assert (metrics["skipped"], metrics["complete"], metrics["keysDeleted"]) == (LOCKED, False, 0)
    assert client.dbsize() == 100 * KEYS_EACH + 1


def test_somebodys_key_in_its_place_costs_a_warning(
    server: Server, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    write_acceptance_data(client, 100, 10)
    client.rpush(keys.LOCK, "not ours")
    assert run(server, None)["complete"]
    assert "another type" in caplog.text
    assert client.dbsize() == 10 * KEYS_EACH + 1


def test_a_dry_run_takes_no_lock(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    settings = load_settings(coordination_redis_url=server.url)
    run_ = Run(settings, Options(dry_run=True))
    seen = []
    run_.sweep(lambda *_: seen.append(client.exists(keys.LOCK)))
    assert seen
    assert not any(seen)


def test_a_real_run_holds_it_throughout(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    seen = []
    Run(load_settings(coordination_redis_url=server.url), Options(), owner="me").sweep(
        lambda *_: seen.append(client.get(keys.LOCK))
    )
    assert set(seen) == {b"me"}
    assert not client.exists(keys.LOCK)


def run(server: Server, fallback_reason: str | None) -> dict[str, object]:
    """A real run against a server, as the tasks do it."""
    settings = load_settings(coordination_redis_url=server.url)
    return Run(settings, Options(), fallback_reason=fallback_reason).sweep().metrics()
