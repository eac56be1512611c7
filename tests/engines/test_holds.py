"""Where nobody seems to be alive nothing is deleted, by either engine, until it is known better."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep import clock, notes
from cleanup_tasks.sweep.options import Options
from cleanup_tasks.sweep.sweep import Sweep
from cleanup_tasks.sweep.writers import MAX_NOTED
from demo.dataset import KEYS_EACH, STALE_AGE_MS, keys_of, write_coordinators
from demo.servers import Server, stop, wait_until
from tests.support.command import run_command
from tests.support.proxy import Proxy
from tests.support.sweeping import (
    THRESHOLD_S,
    NamedEngine,
    all_keys,
    digest,
    hold_at_most,
    noted,
    pass_time,
    write_heartbeat,
)

COORDINATORS = [b"worker-%d" % number for number in range(50)]
#: Of the tests in which coordinators really beat.
SHORT_S = 2
OURS = {keys.HOLD, keys.SIGHTINGS, keys.LOCK}


class Beating:
    """Coordinators that beat through a connection of their own, whether that is there or not."""

    def __init__(
        self, url: str, *, every_s: float = 0.05, ttl_ms: int | None = None, behind_ms: int = 0
    ) -> None:
        """Through this address; heartbeats last `ttl_ms`, the clock is `behind_ms` late."""
        self._url = url
        self._every_s = every_s
        self._ttl_ms = ttl_ms
        self._behind_ms = behind_ms
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.beats = 0

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            with contextlib.suppress(RedisError), Redis.from_url(self._url, socket_timeout=10) as client:
                while not self._ended.wait(self._every_s):
                    with client.pipeline() as pipe:
                        for id_ in COORDINATORS:
                            beat = json.dumps({"timestamp": int(time.time() * 1000) - self._behind_ms})
                            pipe.set(keys.heartbeat(id_), beat, px=self._ttl_ms)
                        pipe.execute()
                    self.beats += 1

    def wait(self) -> None:
        """Until all have beaten once more."""
        before = self.beats
        wait_until(lambda: self.beats > before + 1, "all beat")

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


def swept(url: str, engine: NamedEngine, **options: Any) -> Report:
    """The report of a sweep, with lock and log."""
    given = {"restart_grace_s": 0, "threshold_s": THRESHOLD_S, **options}
    return Sweep(Options(address=parse(url), engine=engine.name, **given)).run()


def write_related(client: Redis) -> set[bytes]:
    """All keys but the heartbeats, with old activities; returns them."""
    write_coordinators(client, COORDINATORS, STALE_AGE_MS)
    client.delete(*map(keys.heartbeat, COORDINATORS))
    return all_keys(client)


def write_stale(client: Redis, number: int) -> set[bytes]:
    """So many stale coordinators; returns their keys."""
    ids = [b"stale-%d" % each for each in range(number)]
    write_coordinators(client, ids, STALE_AGE_MS)
    return {key for id_ in ids for key in keys_of(id_)}


def wait_s(seconds: float) -> None:
    """Until so much time has passed, where that is what is tested."""
    end_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end_s, "time has passed")


# What makes everybody look dead, with coordinators that really beat


def test_a_partition(server: Server, client: Redis, engine: NamedEngine) -> None:
    related = write_related(client)
    with Proxy(server.port) as proxy, Beating(proxy.url) as beating:
        assert swept(server.url, engine, threshold_s=SHORT_S).complete
        with proxy.partition():
            wait_until(lambda: swept(server.url, engine, threshold_s=SHORT_S).held, "they look dead")
            assert swept(server.url, engine, threshold_s=SHORT_S).held == "nobody beats, and 50 look dead"
        beating.wait()
        after = swept(server.url, engine, threshold_s=SHORT_S)
        assert (after.held, after.complete, after.active_coordinators) == (None, True, len(COORDINATORS))
    assert all_keys(client) - OURS == related | set(map(keys.heartbeat, COORDINATORS))


def test_a_partition_with_heartbeats_that_expire(server: Server, client: Redis, engine: NamedEngine) -> None:
    related = write_related(client)
    with Proxy(server.port) as proxy, Beating(proxy.url, ttl_ms=500) as beating:
        with proxy.partition():
            wait_until(
                lambda: swept(server.url, engine, threshold_s=SHORT_S, orphans="reap").held,
                "the orphans are due",
            )
        beating.wait()
        again = swept(server.url, engine, threshold_s=SHORT_S, orphans="reap")
        assert again.orphaned_coordinators_reaped == 0
        assert all_keys(client) - OURS == related | set(map(keys.heartbeat, COORDINATORS))


def test_a_server_that_pauses_its_clients(server: Server, client: Redis, engine: NamedEngine) -> None:
    related = write_related(client)
    with Beating(server.url, every_s=1):
        client.client_pause(4_500)
        assert swept(server.url, engine, threshold_s=SHORT_S).held  # it waited, too
    assert all_keys(client) - OURS == related | set(map(keys.heartbeat, COORDINATORS))


def test_a_server_that_stood_still(server: Server, client: Redis, engine: NamedEngine) -> None:
    related = write_related(client)
    with Beating(server.url, every_s=1):
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            wait_s(4.5)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert swept(server.url, engine, threshold_s=SHORT_S).held
    assert all_keys(client) - OURS == related | set(map(keys.heartbeat, COORDINATORS))


def test_a_server_that_came_back_from_an_old_snapshot(
    server: Server, engine: NamedEngine, tmp_path: Path
) -> None:
    binary = str(server.process.args[0])  # type: ignore[index]
    for _start in range(2):
        back = Server(binary, tmp_path)
        try:
            back.wait()
            with back.client() as client:
                if not all_keys(client):
                    # One that started empty is swept at once, though its data is old
                    write_coordinators(client, COORDINATORS, STALE_AGE_MS)
                    assert swept(back.url, engine, restart_grace_s=60, dry_run=True, force=True).keys_deleted
                    report = swept(back.url, engine, restart_grace_s=60, dry_run=True)
                    assert (report.skipped, bool(report.held)) == (None, True)
                    client.save()
                    continue
                report = swept(back.url, engine, restart_grace_s=60)
                assert "with earlier data, so it is left alone for 60 s" in str(report.skipped)
                assert swept(back.url, engine).held
                assert len(all_keys(client) - OURS) == len(COORDINATORS) * KEYS_EACH
        finally:
            stop(back.process)


def test_clocks_that_differ(server: Server, client: Redis, engine: NamedEngine) -> None:
    """As after the server's clock was set forward by 20 minutes: all beat, and all look stale."""
    related = write_related(client)
    with Beating(server.url, behind_ms=1_200_000) as beating:
        assert swept(server.url, engine).held
        for _sweep in range(2):
            beating.wait()
            pass_time(client, 2 * THRESHOLD_S)
            report = swept(server.url, engine)
            assert "the clocks of Redis and coordinators differ, by about 1200 s" in str(report.held)
            assert report.held_until_ms is None
    assert all_keys(client) - OURS == related | set(map(keys.heartbeat, COORDINATORS))


def test_clocks_that_differ_once_the_hold_is_over(server: Server, client: Redis, engine: NamedEngine) -> None:
    """Whoever was seen to write is protected in each later sweep, until it is silent for the threshold."""
    related = write_related(client)
    write_stale(client, 5)
    with Beating(server.url, behind_ms=1_200_000) as beating:
        assert swept(server.url, engine).held
        for sweep in range(5):  # one whose clock is right beats again, and all others still beat
            pass_time(client, 60)
            beating.wait()
            write_heartbeat(client, b"right", "active")
            report = swept(server.url, engine)
            assert bool(report.held) == (sweep == 0)
            if sweep:
                assert report.revived_coordinators == len(COORDINATORS)
                assert report.reaped == (5 if sweep == 1 else 0)
    # Given that they have stopped, they are protected as long as anybody who has beaten just now
    pass_time(client, THRESHOLD_S - 5)
    assert swept(server.url, engine).revived_coordinators == len(COORDINATORS)
    assert related <= all_keys(client)
    pass_time(client, 5)
    assert swept(server.url, engine).reaped == len(COORDINATORS)
    assert all_keys(client) == {keys.heartbeat(b"right")}


def test_who_writes_is_protected_in_later_generations(
    server: Server, client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stale(client, 25)
    swept(server.url, engine)
    write_heartbeat(client, b"alive", "active")
    assert swept(server.url, engine).held
    pass_time(client, 30)
    write_coordinators(client, [b"stale-%d" % number for number in range(20)], STALE_AGE_MS - 1_000)
    written = all_keys(client)
    hold_at_most(monkeypatch, 5)
    report = swept(server.url, engine)
    assert (report.held, report.reaped, report.revived_coordinators) == (None, 5, 20)
    gone = {key for number in range(20, 25) for key in keys_of(b"stale-%d" % number)}
    assert all_keys(client) - OURS == written - gone - OURS


def test_many_that_are_dead_hide_nobody_who_writes(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, 200)
    slow = [b"slow-%d" % number for number in range(10)]
    write_coordinators(client, slow, STALE_AGE_MS + 900_000)
    swept(server.url, engine)
    pass_time(client, 2 * THRESHOLD_S)
    write_coordinators(client, slow, STALE_AGE_MS + 890_000)
    assert "but 10 have written since the last sweep" in str(swept(server.url, engine).held)


def test_a_note_of_many_is_small(server: Server, client: Redis, engine: NamedEngine) -> None:
    ids = [b"x" * 200 + b"%d" % number for number in range(MAX_NOTED + 10)]
    now_ms = server_time_ms(client)
    client.mset({keys.heartbeat(id_): now_ms - STALE_AGE_MS for id_ in ids})
    assert swept(server.url, engine).held
    assert len(noted(client).traces) == MAX_NOTED
    assert client.strlen(keys.HOLD) < 500_000


def test_orphans_that_write_say_nothing_of_clocks_without_a_time(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    orphans = [b"orphan-%d" % number for number in range(20)]
    client.mset({keys.signal(id_): "1" for id_ in orphans})
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(orphans, "1"))
    swept(server.url, engine, orphans="reap")
    client.set(keys.activity(orphans[0]), "no time")
    report = swept(server.url, engine, orphans="reap")
    assert str(report.held).endswith("the clocks of Redis and coordinators differ")


# The server's clock


@pytest.mark.parametrize("step", ["finding", "collecting"])
def test_a_clock_that_is_set_while_a_sweep_runs(
    server: Server, client: Redis, engine: NamedEngine, step: str
) -> None:
    data = write_stale(client, 3)
    with Proxy(server.port) as proxy:

        def set_forward(what: str, *_: int) -> None:
            proxy.ahead_s = 1_200 * (what == step)

        report = swept(proxy.url, engine, progress=set_forward)
    assert report.held == "the clock of Redis has jumped by +1200 s"
    assert all_keys(client) == data | {keys.HOLD}


def test_a_clock_that_is_set_back_a_little_while_a_sweep_runs(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    """Then everybody is kept, and the report says that not all was done."""
    data = write_stale(client, 3)
    with Proxy(server.port) as proxy:
        proxy.ahead_s = 30

        def set_back(what: str, *_: int) -> None:
            proxy.ahead_s = 30 * (what == "finding")

        report = swept(proxy.url, engine, progress=set_back)
    assert (report.held, report.keys_deleted, report.complete) == (None, 0, False)
    assert all_keys(client) == data


def test_a_sighting_and_then_a_clock_that_is_set(server: Server, client: Redis, engine: NamedEngine) -> None:
    related = write_related(client)
    with Proxy(server.port) as proxy:
        assert swept(proxy.url, engine, orphans="reap").orphaned_coordinators_found == len(COORDINATORS)
        proxy.ahead_s = 1_200
        announced = swept(proxy.url, engine, orphans="reap", dry_run=True)
        held = swept(proxy.url, engine, orphans="reap")
        assert announced.held == held.held == "the clock of Redis has jumped by +1200 s"
        # Then the orphans are sighted anew
        report = swept(proxy.url, engine, orphans="reap")
        assert (report.held, report.orphaned_coordinators_found) == (None, len(COORDINATORS))
        assert all_keys(client) - OURS == related


@pytest.mark.parametrize("local", [False, True])
def test_a_clock_that_is_set_between_two_sweeps_of_a_process(
    server: Server, client: Redis, engine: NamedEngine, local: bool
) -> None:
    """Though nothing was noted in Redis, and somebody on its machine goes by its clock."""
    ids = COORDINATORS[:19]
    with Proxy(server.port) as proxy:
        proxy.ahead_s = -1_200
        write_coordinators(client, ids, 1_200_000)
        written = all_keys(client)
        assert swept(proxy.url, engine).complete
        assert all_keys(client) == written
        proxy.ahead_s = 0
        if local:
            write_heartbeat(client, b"local", "active")
        announced = swept(proxy.url, engine, dry_run=True)
        held = swept(proxy.url, engine)
        assert announced.held == held.held == "the clock of Redis has jumped by +1200 s"
        assert swept(proxy.url, engine).held  # and then as any other hold
        assert written <= all_keys(client)


def test_a_clock_that_is_set_before_another_machine_sweeps(
    server: Server, client: Redis, engine: NamedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set(keys.signal(b"starting"), "1")
    with Proxy(server.port) as proxy:
        assert swept(proxy.url, engine, orphans="reap").complete
        notes._remembered.clear()
        monkeypatch.setattr(clock, "MACHINE", "another")
        assert swept(proxy.url, engine, orphans="reap").held is None
        monkeypatch.setattr(clock, "MACHINE", "one more")
        notes._remembered.clear()
        proxy.ahead_s = 1_200
        held = swept(proxy.url, engine, orphans="reap").held
        assert held == "the clock of Redis has jumped by +1200 s"
        assert swept(proxy.url, engine, orphans="reap").orphaned_coordinators_reaped == 0
        assert client.exists(keys.signal(b"starting"))


# What becomes of the note


@pytest.mark.parametrize("left", [19, 20])
def test_orphans_of_whom_nothing_is_left_hold_nothing(
    server: Server, client: Redis, engine: NamedEngine, left: int
) -> None:
    """Their keys may have expired since they were sighted."""
    orphans = [b"orphan-%d" % number for number in range(60)]
    client.mset({keys.signal(id_): "1" for id_ in orphans[:left]})
    # nor do those count who share all they have with somebody who is to stay
    client.set(keys.heartbeat(b"odd"), "unreadable")
    client.mset({keys.IDEMPOTENCY + id_ + b":odd:done:1:2": "1" for id_ in orphans[50:]})
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(orphans, "1"))
    announced = swept(server.url, engine, orphans="reap", dry_run=True)
    assert client.hlen(keys.SIGHTINGS) == 60
    explained = run_command(server.url, "--explain", "--orphans", "reap")
    assert ("Held" in explained.stdout) == (left == 20)
    report = swept(server.url, engine, orphans="reap")
    assert announced.held == report.held == (None if left < 20 else "nobody beats, and 20 look dead")
    assert report.orphaned_coordinators_reaped == report.keys_deleted == (left if left < 20 else 0)
    assert client.hlen(keys.SIGHTINGS) == (0 if left < 20 else 20)


def test_a_sweep_that_reaps_no_orphans_leaves_the_hold_of_others(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    orphans = [b"orphan-%d" % number for number in range(30)]
    client.mset({keys.signal(id_): "1" for id_ in orphans})
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(orphans, "1"))
    since_ms = swept(server.url, engine, orphans="reap").held_since_ms
    for mode in ("report", "off"):
        assert swept(server.url, engine, orphans=mode).held is None
        assert noted(client).since_ms == since_ms
    # Nor does it end the time that the others have once somebody beats
    write_heartbeat(client, b"alive", "active")
    assert swept(server.url, engine, orphans="report").complete
    assert swept(server.url, engine, orphans="reap").held == "somebody beats again, and others may follow"
    pass_time(client, 30)
    assert swept(server.url, engine, orphans="reap").orphaned_coordinators_reaped == 30
    assert all_keys(client) == {keys.heartbeat(b"alive")}


def test_a_sighting_a_sweep_that_reaps_none_and_then_a_clock_that_is_set(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    client.set(keys.signal(b"starting"), "1")
    with Proxy(server.port) as proxy:
        swept(proxy.url, engine, orphans="reap")
        swept(proxy.url, engine, orphans="report")
        notes._remembered.clear()  # the next process
        proxy.ahead_s = 1_200
        assert swept(proxy.url, engine, orphans="reap").held == "the clock of Redis has jumped by +1200 s"
        assert client.exists(keys.signal(b"starting"))


def test_a_note_that_cannot_be_written_is_remembered(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    """Its memory is full; the hold ends as it would."""
    write_stale(client, 20)
    client.config_set("maxmemory", 1)
    try:
        since_ms = swept(server.url, engine, threshold_s=SHORT_S).held_since_ms
        assert not client.exists(keys.HOLD)
        again = swept(server.url, engine, threshold_s=SHORT_S)
        assert again.held_since_ms == since_ms
    finally:
        client.config_set("maxmemory", 0)
    again = swept(server.url, engine, threshold_s=SHORT_S, dry_run=True)
    assert again.held_since_ms in (since_ms, None)
    wait_until(lambda: swept(server.url, engine, threshold_s=SHORT_S).reaped == 20, "it ends")


def test_another_attempt_after_the_end_of_a_hold_goes_on(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, 600)
    with Proxy(server.port) as proxy:
        swept(proxy.url, engine)
        pass_time(client, THRESHOLD_S)
        proxy.cut_at(b"EVALSHA" if engine.name == "lua" else b"UNLINK", 4)
        with pytest.raises(RedisError):
            swept(proxy.url, engine)
        left = client.dbsize()
        assert left > 100
        client.delete(keys.LOCK)
        # Given that the attempt comes too late, others may have fallen silent meanwhile
        kept = client.get(keys.HOLD) or b""
        pass_time(client, THRESHOLD_S)
        assert swept(proxy.url, engine, dry_run=True).held
        client.set(keys.HOLD, kept)
        report = swept(proxy.url, engine)
        assert (report.held, report.complete) == (None, True)
        assert all_keys(client) == set()


def restarted(server: Server, folder: Path) -> Server:
    """Another start of it, with the data that it has saved."""
    with server.client() as client:
        client.save()
    stop(server.process)
    back = Server(str(server.process.args[0]), folder)  # type: ignore[index]
    back.wait()
    return back


def test_a_restart_begins_a_hold_anew(server: Server, engine: NamedEngine, tmp_path: Path) -> None:
    """The time while it was down, or which an old snapshot shows, was no time to beat."""
    back = Server(str(server.process.args[0]), tmp_path)  # type: ignore[index]
    try:
        back.wait()
        with back.client() as client:
            write_stale(client, 50)
            assert swept(back.url, engine).held
            pass_time(client, THRESHOLD_S + 5)
        back = restarted(back, tmp_path)
        with back.client() as client:
            now_ms = server_time_ms(client)
            report = swept(back.url, engine)
            assert report.held == "nobody beats, and 50 look dead"
            assert (report.held_since_ms or 0) >= now_ms
            pass_time(client, THRESHOLD_S)
            assert swept(back.url, engine).reaped == 50
    finally:
        stop(back.process)


def test_a_restart_makes_sightings_void(server: Server, engine: NamedEngine, tmp_path: Path) -> None:
    back = Server(str(server.process.args[0]), tmp_path)  # type: ignore[index]
    try:
        back.wait()
        with back.client() as client:
            client.set(keys.signal(b"starting"), "1")
            swept(back.url, engine, orphans="reap")
            client.hset(keys.SIGHTINGS, "starting", 1)
        back = restarted(back, tmp_path)
        with back.client() as client:
            write_heartbeat(client, b"alive", "active")
            for dry_run in (True, False, False):
                report = swept(back.url, engine, orphans="reap", dry_run=dry_run)
                assert (report.held, report.orphaned_coordinators_found) == (None, 1)
                assert report.orphaned_coordinators_reaped == 0
            assert client.exists(keys.signal(b"starting"))
    finally:
        stop(back.process)


# The ways out


def test_it_holds_and_says_so(server: Server, client: Redis, engine: NamedEngine) -> None:
    data = write_stale(client, 20)
    before_ms = server_time_ms(client)
    report = swept(server.url, engine)
    assert report.held == "nobody beats, and 20 look dead"
    assert (report.complete, report.cleanup_errors) == (False, 0)
    assert report.held_since_ms is not None
    assert report.held_since_ms - before_ms < 5_000
    assert report.held_until_ms == report.held_since_ms + THRESHOLD_S * 1000
    assert (report.stale_coordinators_found, report.keys_deleted) == (20, 0)
    assert all_keys(client) == data | {keys.HOLD}
    assert client.ttl(keys.HOLD) > 86_400


def test_it_ends_when_nothing_has_changed_for_as_long_as_the_threshold(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, 150)
    since_ms = swept(server.url, engine).held_since_ms
    pass_time(client, THRESHOLD_S - 5)
    # what has expired meanwhile was changed by nobody
    client.delete(keys.heartbeat(b"stale-0"), keys.activity(b"stale-1"))
    later = swept(server.url, engine)
    assert later.held
    assert later.held_since_ms == since_ms - (THRESHOLD_S - 5) * 1000  # type: ignore[operator]
    pass_time(client, 5)
    report = swept(server.url, engine)
    assert (report.held, report.reaped, report.complete) == (None, 149, True)
    assert all_keys(client) == set(keys_of(b"stale-0")) - {keys.heartbeat(b"stale-0")}


@pytest.mark.parametrize("number", [50, 150])
def test_it_stays_while_somebody_writes_what_looks_dead(
    server: Server, client: Redis, engine: NamedEngine, number: int
) -> None:
    write_stale(client, number)
    write_coordinators(client, [b"slow"], STALE_AGE_MS + 1_000)
    swept(server.url, engine)
    assert len(noted(client).traces) == number + 1
    client.set(keys.heartbeat(b"slow"), server_time_ms(client) - STALE_AGE_MS + 20_000)
    pass_time(client, 2 * THRESHOLD_S)
    report = swept(server.url, engine)
    assert "but 1 have written since the last sweep" in str(report.held)
    assert "by about 640 s" in str(report.held)
    # and when it has stopped, as long as the threshold more
    pass_time(client, THRESHOLD_S - 5)
    assert swept(server.url, engine).held == f"nobody beats, and {number + 1} look dead"
    pass_time(client, 5)
    assert swept(server.url, engine).reaped == number + 1


def test_it_ends_30_s_after_somebody_was_seen_to_beat(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, 20)
    swept(server.url, engine)
    write_heartbeat(client, b"alive", "active")
    for passed_s in (0, 25):
        pass_time(client, passed_s)
        assert swept(server.url, engine).held == "somebody beats again, and others may follow"
    # Given that it is silent again meanwhile, the 30 s begin anew
    client.delete(keys.heartbeat(b"alive"))
    assert swept(server.url, engine).held == "nobody beats, and 20 look dead"
    write_heartbeat(client, b"alive", "active")
    pass_time(client, 30)
    assert swept(server.url, engine).held == "somebody beats again, and others may follow"
    pass_time(client, 30)
    # and one that has written meanwhile is alive, whatever its clock says
    write_coordinators(client, [b"stale-1"], STALE_AGE_MS - 1_000)
    report = swept(server.url, engine)
    assert (report.reaped, report.revived_coordinators, report.complete) == (19, 1, True)
    assert all_keys(client) - OURS == {*keys_of(b"stale-1"), keys.heartbeat(b"alive")}


@pytest.mark.parametrize("options", [{"force": True}, {"hold_percent": 0}])
def test_it_can_be_overridden(
    server: Server, client: Redis, engine: NamedEngine, options: dict[str, Any]
) -> None:
    write_stale(client, 50)
    assert swept(server.url, engine).held
    assert swept(server.url, engine, **options).reaped == 50
    assert all_keys(client) == set()


def test_a_dry_run_says_what_a_real_one_would_do_and_notes_nothing(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, 50)
    before = digest(client)
    announced = swept(server.url, engine, dry_run=True)
    assert digest(client) == before
    assert announced.held == swept(server.url, engine).held
    acts: list[Callable[[], object]] = [
        lambda: client.set(keys.heartbeat(b"stale-1"), server_time_ms(client) - STALE_AGE_MS + 1_000),
        lambda: write_heartbeat(client, b"alive", "active"),
        lambda: pass_time(client, THRESHOLD_S),
    ]
    for act in acts:
        act()
        before = digest(client)
        announced = swept(server.url, engine, dry_run=True)
        assert digest(client) == before
        report = swept(server.url, engine)
        assert (announced.held, announced.keys_deleted) == (report.held, report.keys_deleted)
    assert report.reaped == 50


@pytest.mark.parametrize(
    ("ages", "percent", "holds"),
    [
        ({660: 19}, 100, False),
        ({660: 20}, 100, True),
        ({660: 20, 60: 1}, 100, False),
        # those who fell silent with the others, and are not stale by a hair
        ({660: 20, 590: 30}, 100, True),
        # a clock that is far ahead says nothing about when that was
        ({660: 20, -120: 30}, 100, True),
        ({660: 25, 60: 25}, 50, True),
        ({660: 24, 60: 25}, 50, False),
        ({660: 24, 590: 25, 60: 24}, 50, True),
        # who fell silent with those that are few
        ({660: 5, 590: 15}, 100, True),
        ({660: 5, 590: 15, 60: 1}, 100, False),
        ({660: 19, 60: 1}, 1, False),
    ],
)
def test_when_it_holds(
    server: Server, client: Redis, engine: NamedEngine, ages: dict[int, int], percent: int, holds: bool
) -> None:
    """`ages`: how many coordinators there are by the age of their last sign of life in seconds."""
    for age_s, number in ages.items():
        ids = [b"aged-%d-%d" % (age_s, each) for each in range(number)]
        write_coordinators(client, ids, age_s * 1000)
    report = swept(server.url, engine, hold_percent=percent)
    assert (bool(report.held), report.reaped) == (holds, 0 if holds else ages[660])
    assert report.active_coordinators == sum(ages.values()) - ages[660]
    assert report.heartbeats_ahead == ages.get(-120, 0)


def test_heartbeats_ahead_that_are_written_anew_are_signs_of_life(
    server: Server, client: Redis, engine: NamedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    write_stale(client, 20)
    write_coordinators(client, [b"ahead"], -120_000)
    assert swept(server.url, engine).held == "nobody beats, and 20 look dead"
    assert "Clocks differ: 1 heartbeat is 60 s or more ahead of the server's" in caplog.text
    write_coordinators(client, [b"ahead"], -130_000)
    assert swept(server.url, engine).held == "somebody beats again, and others may follow"
    pass_time(client, 30)
    write_coordinators(client, [b"ahead"], -140_000)
    assert swept(server.url, engine).reaped == 20


def test_stale_ones_and_orphans_that_are_due_count_together(
    server: Server, client: Redis, engine: NamedEngine
) -> None:
    write_stale(client, 10)
    orphans = [b"orphan-%d" % number for number in range(10)]
    client.mset({keys.signal(id_): "1" for id_ in orphans})
    client.hset(keys.SIGHTINGS, mapping=dict.fromkeys(orphans, "1"))
    assert swept(server.url, engine, orphans="report", dry_run=True).held is None
    assert swept(server.url, engine, orphans="reap").held == "nobody beats, and 20 look dead"


def test_others_that_look_dead_are_held_anew(server: Server, client: Redis, engine: NamedEngine) -> None:
    write_stale(client, 30)
    swept(server.url, engine)
    pass_time(client, 2 * THRESHOLD_S)
    client.delete(*all_keys(client) - {keys.HOLD})
    write_coordinators(client, COORDINATORS, STALE_AGE_MS + 1_000)
    report = swept(server.url, engine)
    assert report.held == "nobody beats, and 50 look dead, others than before"
    pass_time(client, THRESHOLD_S)
    assert swept(server.url, engine).reaped == 50


@pytest.mark.parametrize("note", ["odd", "[]", '{"since_ms": "1"}', None])
def test_a_note_of_somebody_elses_is_none(
    server: Server, client: Redis, engine: NamedEngine, note: str | None
) -> None:
    write_stale(client, 20)
    if note is None:
        client.hset(keys.HOLD, "since_ms", "1")
    else:
        client.set(keys.HOLD, note)
    assert swept(server.url, engine).held == "nobody beats, and 20 look dead"
    pass_time(client, THRESHOLD_S)
    assert swept(server.url, engine).reaped == 20


def test_what_the_command_says(server: Server, client: Redis) -> None:
    data = write_stale(client, 20)
    for arguments in ([], ["--dry-run"], ["--json"]):
        ended = run_command(server.url, *arguments)
        assert ended.returncode == 3
        told = ended.stderr if arguments == ["--json"] else ended.stdout
        assert "Cleanup held: nobody beats, and 20 look dead\n" in told
        if arguments == ["--dry-run"]:
            assert "A real run would also delete nothing, unless with --force or cleanup.delay(force=" in told
        else:
            assert "if nothing changes, or 30 s after somebody was seen to beat\n" in told
            assert "To go on at once: --force or cleanup.delay(force=True)\n" in told
        assert all_keys(client) == data | {keys.HOLD}
    ended = run_command(server.url, "--force")
    assert (ended.returncode, all_keys(client)) == (0, set())
