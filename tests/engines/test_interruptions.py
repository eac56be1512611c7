"""Several batches under way: in which order, and what the report says when a sweep is broken off."""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ResponseError

from cleanup_tasks.engines.batch import Answer, Batch, EngineName
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.client import TIMEOUT_S
from cleanup_tasks.servers.errors import ScriptingRefused
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.sweep.reaper import Reaper
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server
from demo.stack import ROOT
from tests.support.sweeping import (
    Before,
    NamedEngine,
    all_keys,
    clean,
    digest,
    new_report,
    sweep,
    write_heartbeat,
    write_stale,
)


class Recorded(Before):
    """Notes when a batch is sent, and when it has come to an end."""

    def __init__(self, engine: NamedEngine, in_flight: int) -> None:
        self.events: list[str] = []
        super().__init__(engine, lambda number, _batch: self.events.append(f"{number} sent"))
        self.in_flight = in_flight

    def receive(self) -> tuple[Batch, Answer]:
        batch, answer = super().receive()
        self.events.append(f"{1 + self.batches.index(batch)} over")
        return batch, answer


def batches_of_one(client: Redis, number: int) -> list[Batch]:
    """Batches with a key each."""
    client.mset({b"k%d" % each: b"1" for each in range(number)})
    client.set(b"guard", b"v")
    batches = [Batch(10**12) for _ in range(number)]
    for each, batch in enumerate(batches):
        batch.add_group(batch.add_values([b"guard"], [b"v"]), [b"k%d" % each], ())
    return batches


def test_the_next_batch_is_sent_before_one_is_awaited(client: Redis, engine: NamedEngine) -> None:
    recorded = Recorded(engine, in_flight=2)
    report = new_report(engine.name)
    Reaper(recorded, report, None).reap(batches_of_one(client, 4), lambda _done: None, lambda _reaped: None)
    order = ["1 sent", "2 sent", "1 over", "3 sent", "2 over", "4 sent", "3 over", "4 over"]
    assert recorded.events == order
    assert report.keys_deleted == 4


def test_what_depends_on_others_is_asked_for_when_they_are_over(client: Redis, engine: NamedEngine) -> None:
    recorded = Recorded(engine, in_flight=3)
    batches = batches_of_one(client, 5)
    asked: list[list[str]] = []

    def in_two() -> Iterator[Batch | None]:
        yield from batches[:2]
        yield None
        asked.append(list(recorded.events))
        yield from batches[2:]

    Reaper(recorded, new_report(engine.name), None).reap(in_two(), lambda _done: None, lambda _reaped: None)
    assert asked == [["1 sent", "2 sent", "1 over", "2 over"]]
    order = ["1 sent", "2 sent", "1 over", "2 over", "3 sent", "4 sent", "5 sent"]
    assert recorded.events == [*order, "3 over", "4 over", "5 over"]


class Immediate:
    """An engine that deletes when a batch is sent, and has its answer at once."""

    name: EngineName = "python"
    in_flight = 3

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._answered: deque[tuple[Batch, Answer]] = deque()

    @property
    def pending(self) -> int:
        return len(self._answered)

    def open(self) -> None:
        self._client.ping()

    def send(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            answers = [self._answer(*question) for question in batch.questions()]
            kept = batch.kept(batch.changed(answers))
            doomed = [
                key for number, its in enumerate(batch.group_keys()) if number not in kept for key in its
            ]
            command = self._client.exists if batch.dry_run else self._client.unlink
            self._answered.append((batch, Answer(int(command(*doomed)) if doomed else 0, kept)))

    def receive(self) -> tuple[Batch, Answer]:
        return self._answered.popleft()

    def close(self) -> None:
        self._answered.clear()

    def _answer(self, *question: Any) -> Any:
        try:
            return self._client.execute_command(*question)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return error


def test_an_engine_that_never_waits_is_an_engine(client: Redis) -> None:
    write_acceptance_data(client, 200, 20)
    write_stale(client, b"big", b"revived")
    client.mset({b"blocking:ack:big:%d" % number: "1" for number in range(6_000)})
    client.set("blocking:idempotency:big:revived:done:1:2", "1")
    before = digest(client)
    announced = sweep(client, Immediate(client), dry_run=True)
    assert digest(client) == before
    engine = Before(Immediate(client), lambda *_: write_heartbeat(client, b"revived", "active"))
    report = sweep(client, engine)
    assert announced.keys_deleted == report.keys_deleted + KEYS_EACH + 1
    assert report.keys_deleted == 180 * KEYS_EACH + KEYS_EACH + 6_000
    assert (report.revived_coordinators, report.cleanup_errors, report.complete) == (1, 0, True)
    assert keys.heartbeat(b"big") not in all_keys(client)
    assert client.dbsize() == 21 * KEYS_EACH + 1


@pytest.mark.parametrize("at", [1, 3])
def test_a_sweep_that_breaks_off_says_what_it_did(client: Redis, engine: NamedEngine, at: int) -> None:
    write_acceptance_data(client, total=1_000, active=10)

    def break_off(number: int, _batch: Batch) -> None:
        if number == at:
            raise ConnectionResetError

    report = new_report(engine.name)
    with pytest.raises(ConnectionResetError):
        clean(SingleServer(client), Before(engine, break_off), report)
    # What was under way has ended; of the one that was about to be sent nobody knows
    assert client.dbsize() == 1_000 * KEYS_EACH - report.keys_deleted
    assert (report.keys_deleted > 0) == (at > 1)
    assert (report.complete, report.cleanup_errors) == (False, 1)
    # and the next one finds all that was left
    again = sweep(client, engine)
    assert again.keys_deleted + report.keys_deleted == 990 * KEYS_EACH
    assert client.dbsize() == 10 * KEYS_EACH


def test_wherever_it_is_broken_off_the_report_is_true(server: Server, engine: NamedEngine) -> None:
    """A report without errors counts exactly the keys that are gone; one with errors at most these."""
    command = [sys.executable, "-m", "tests.support.breaking_off", server.url, engine.name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("refused", ["evalsha", "script"])
def test_what_is_refused_in_the_middle_is_no_unknown_end(server: Server, client: Redis, refused: str) -> None:
    """Two batches are under way, and both are answered; after a flush the script can't be loaded again."""
    write_acceptance_data(client, 1_000, 10)
    user = ["ACL", "SETUSER", "sweeper"]
    client.execute_command(*user, "on", ">p", "~*", "+@all")  # type: ignore[no-untyped-call]

    def refuse(number: int, _batch: Batch) -> None:
        if number == 4:
            client.execute_command(*user, f"-{refused}")  # type: ignore[no-untyped-call]
            client.script_flush()

    report = new_report("lua")
    started_s = time.monotonic()
    try:
        with SingleServer(server.client(username="sweeper", password="p")) as servers:
            engine = Before(LuaEngine(servers.client), refuse)
            with pytest.raises(ScriptingRefused):
                clean(servers, engine, report)
    finally:
        client.execute_command("ACL", "DELUSER", "sweeper")  # type: ignore[no-untyped-call]
    assert time.monotonic() - started_s < TIMEOUT_S, "nobody waited for an answer that does not come"
    assert report.cleanup_errors == 0
    assert 0 < report.keys_deleted == 1_000 * KEYS_EACH - client.dbsize()


def test_a_connection_that_is_refused_hides_nothing(server: Server, client: Redis) -> None:
    """The Python engine opens one more connection in the middle, and may not log in any more."""
    write_acceptance_data(client, 1_000, 10)
    user = ["ACL", "SETUSER", "sweeper"]
    client.execute_command(*user, "on", ">p", "~*", "+@all")  # type: ignore[no-untyped-call]

    def refuse(number: int, _batch: Batch) -> None:
        if number == 3:
            client.execute_command(*user, ">other", "<p")  # type: ignore[no-untyped-call]
            servers.client.connection_pool.disconnect(inuse_connections=False)

    report = new_report("python")
    try:
        with SingleServer(server.client(username="sweeper", password="p")) as servers:
            engine = Before(PythonEngine(servers.client), refuse)
            with pytest.raises(AuthenticationError):
                clean(servers, engine, report)
    finally:
        client.execute_command("ACL", "DELUSER", "sweeper")  # type: ignore[no-untyped-call]
    assert report.cleanup_errors == 0
    assert 0 < report.keys_deleted == 1_000 * KEYS_EACH - client.dbsize()
