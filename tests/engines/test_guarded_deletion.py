"""Guarded deletion, the one primitive: a group goes if none of its guards has changed, and else it stays."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import NoPermissionError

from cleanup_tasks.engines.batch import Answer, Batch
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import ATTEMPTS, PythonEngine
from cleanup_tasks.servers.client import server_time_ms
from demo.servers import Server
from tests.support.sweeping import NamedEngine, all_keys, delete, digest, meddling

KEY = b"guard"

#: What a key may be: how it is written.
STATES: dict[str, Callable[[Redis, bytes], object]] = {
    "missing": lambda client, key: client.delete(key),
    "v": lambda client, key: client.set(key, b"v"),
    "w": lambda client, key: client.set(key, b"w"),
    "v and more": lambda client, key: client.set(key, b"vv"),
    "v with a line end": lambda client, key: client.set(key, b"v\n"),
    "empty": lambda client, key: client.set(key, b""),
    "a number": lambda client, key: client.set(key, b"7"),
    "hash": lambda client, key: client.hset(key, b"f", b"v"),
    "hash, other value": lambda client, key: client.hset(key, b"f", b"w"),
    "hash, other field": lambda client, key: client.hset(key, b"v", b"v"),
    "list": lambda client, key: client.rpush(key, b"v"),
    "set": lambda client, key: client.sadd(key, b"v"),
    "stream": lambda client, key: client.xadd(key, {b"f": b"v"}),
}


class Guard(NamedTuple):
    """What is expected of a key, and the states in which that holds; in all others it has changed."""

    kind: Literal["value", "absent", "field"]
    expected: bytes
    holds: set[str]


THE_VALUE = Guard("value", b"v", {"v"})
GUARDS = {
    "the value v": THE_VALUE,
    "a number": Guard("value", b"7", {"a number"}),
    "no string": Guard(
        "value",
        b"",
        {"missing", "empty", "hash", "hash, other value", "hash, other field", "list", "set", "stream"},
    ),
    "no key": Guard("absent", b"", {"missing"}),
    "a field v": Guard("field", b"v", {"hash"}),
}


def write_state(client: Redis, key: bytes, state: str) -> None:
    client.delete(key)
    STATES[state](client, key)


def add(batch: Batch, key: bytes, guard: Guard, field: bytes = b"f") -> int:
    """Add a guard to a batch; returns its number."""
    if guard.kind == "field":
        return batch.add_field(key, field, guard.expected)
    if guard.kind == "absent":
        return batch.add_absent([key])[0]
    return batch.add_values([key], [guard.expected])[0]


def one_group(client: Redis, *its_keys: bytes) -> Batch:
    """A batch with a group whose guard holds."""
    batch = new_batch(client)
    batch.add_group((add(batch, KEY, GUARDS["no key"]),), list(its_keys))
    return batch


def new_batch(client: Redis, *, dry_run: bool = False) -> Batch:
    return Batch(server_time_ms(client), dry_run)


@pytest.mark.parametrize("guard", GUARDS.values(), ids=list(GUARDS))
def test_a_group_stays_if_its_guard_has_changed(client: Redis, engine: NamedEngine, guard: Guard) -> None:
    """Each state that a key may be in, and whether it is the one that is expected."""
    wrong = []
    for state in STATES:
        # Given three groups: by this guard, by another that holds, and by both
        client.flushall()
        client.mset({b"k0": b"1", b"k1": b"1", b"k2": b"1", b"k3": b"1", b"other": b"v"})
        write_state(client, KEY, state)
        now_ms = server_time_ms(client)
        batches = Batch(now_ms, dry_run=True), Batch(now_ms)
        for batch in batches:
            this, other = add(batch, KEY, guard), add(batch, b"other", THE_VALUE)
            batch.add_group((this,), [b"k0"])
            batch.add_group((other,), [b"k1", b"k2"])
            batch.add_group((other, this), [b"k3"])
        # When they are to go, in a dry run and then for good
        before = digest(client)
        announced = delete(engine, batches[0])
        unchanged = digest(client) == before
        done = delete(engine, batches[1])
        # Then those stay that this guard is about, if it has changed, and no other
        expected = Answer(4, []) if state in guard.holds else Answer(2, [0, 2])
        left = all_keys(client) & {b"k0", b"k1", b"k2", b"k3"}
        stay = set() if state in guard.holds else {b"k0", b"k3"}
        if not (announced == done == expected and left == stay and unchanged):
            wrong.append((state, announced, done, left, unchanged))
    assert wrong == []


@pytest.mark.parametrize("guard", GUARDS.values(), ids=list(GUARDS))
def test_a_guard_may_be_among_the_keys_that_go(client: Redis, engine: NamedEngine, guard: Guard) -> None:
    """As a heartbeat is."""
    for state in guard.holds:
        write_state(client, KEY, state)
        batch = new_batch(client)
        batch.add_group((add(batch, KEY, guard),), [b"k", KEY])
        assert delete(engine, batch) == Answer(int(state != "missing"), [])
        assert not client.exists(KEY)


SOME = st.sampled_from(sorted(STATES))


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[tuple[Guard, str]], list[tuple[list[int], list[int]]]]:
    """Guards with the state that their key is in; and groups, by the numbers of guards and of keys."""
    guards = draw(st.lists(st.tuples(st.sampled_from(list(GUARDS.values())), SOME), min_size=1, max_size=6))
    number = st.integers(0, len(guards) - 1)
    names = iter(range(100))
    groups = [
        (draw(st.lists(number, max_size=4)), [next(names) for _ in range(size)])
        for size in draw(st.lists(st.integers(0, 3), max_size=5))
    ]
    return guards, groups


@given(situation=situations(), there=st.sets(st.integers(0, 14)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_guards_and_groups(
    client: Redis,
    engine: NamedEngine,
    situation: tuple[list[tuple[Guard, str]], list[tuple[list[int], list[int]]]],
    there: set[int],
) -> None:
    guards, groups = situation
    client.flushall()
    for number in there:
        client.set(b"k%d" % number, b"1")
    now_ms = server_time_ms(client)
    batches = Batch(now_ms, dry_run=True), Batch(now_ms)
    for number, (_, state) in enumerate(guards):
        write_state(client, b"g%d" % number, state)
    for batch in batches:
        numbers = [add(batch, b"g%d" % number, guard) for number, (guard, _) in enumerate(guards)]
        for its_guards, its_keys in groups:
            batch.add_group(tuple(numbers[guard] for guard in its_guards), [b"k%d" % key for key in its_keys])
    kept = [
        number
        for number, (its_guards, _) in enumerate(groups)
        if any(guards[guard][1] not in guards[guard][0].holds for guard in its_guards)
    ]
    gone = {key for number, (_, its_keys) in enumerate(groups) if number not in kept for key in its_keys}
    expected = Answer(len(gone & there), kept)
    before = digest(client)
    assert delete(engine, batches[0]) == expected
    assert digest(client) == before
    assert delete(engine, batches[1]) == expected
    assert {key for key in all_keys(client) if key[:1] == b"k"} == {b"k%d" % key for key in there - gone}


def test_where_the_clock_went_back_all_is_given_up(client: Redis, engine: NamedEngine) -> None:
    client.mset({KEY: b"v", b"k": b"1"})
    for dry_run in (True, False):
        batch = Batch(server_time_ms(client) + 60_000, dry_run)
        guard = add(batch, KEY, THE_VALUE)
        batch.add_group((guard,), [b"k"])
        batch.add_group((), [KEY])
        assert delete(engine, batch) == Answer(failed=[0, 1])
    assert all_keys(client) == {KEY, b"k"}


def test_a_batch_of_nothing(client: Redis, engine: NamedEngine) -> None:
    assert delete(engine, new_batch(client)) == Answer()
    # guards without a group, and groups without a key
    batch = new_batch(client)
    add(batch, KEY, THE_VALUE)
    assert delete(engine, batch) == Answer()
    batch.add_group((0,), [])
    batch.add_group((), [])
    assert delete(engine, batch) == Answer(0, [0])


@pytest.mark.parametrize("changed", [(), (0, 4_999, 5_000, 8_999), (4_999,), (8_999,)], ids=str)
def test_more_than_a_script_can_take_as_arguments(
    client: Redis, engine: NamedEngine, changed: tuple[int, ...]
) -> None:
    # Given 9,000 guards of each kind, each of a group with a key
    number = 9_000
    client.mset({b"v%d" % each: b"v" for each in range(number)})
    client.mset({b"k%d" % each: b"1" for each in range(4 * number)})
    client.hset(b"h", mapping={b"f%d" % each: b"v" for each in range(number)})
    batch = new_batch(client)
    for each in range(number):
        guards = (
            add(batch, b"v%d" % each, THE_VALUE),
            add(batch, b"n%d" % each, GUARDS["no string"]),
            add(batch, b"a%d" % each, GUARDS["no key"]),
            add(batch, b"h", GUARDS["a field v"], b"f%d" % each),
        )
        for kind, guard in enumerate(guards):
            batch.add_group((guard,), [b"k%d" % (4 * each + kind)])
    # When a few of each have changed
    for each in changed:
        client.mset({b"v%d" % each: b"w", b"n%d" % each: b"w", b"a%d" % each: b""})
        client.hset(b"h", b"f%d" % each, b"w")
    answer = delete(engine, batch)
    # Then only theirs stay
    assert answer.kept == [4 * each + kind for each in changed for kind in range(4)]
    assert answer.deleted == 4 * (number - len(changed))
    assert client.exists(*(b"k%d" % group for group in range(4 * number))) == 4 * len(changed)


def test_a_group_of_20000_keys(client: Redis, engine: NamedEngine) -> None:
    names = [b"k%d" % number for number in range(20_000)]
    client.mset(dict.fromkeys(names, b"1"))
    for dry_run in (True, False):
        batch = new_batch(client, dry_run=dry_run)
        batch.add_group((add(batch, KEY, GUARDS["no key"]),), names)
        assert delete(engine, batch) == Answer(20_000, [])
    assert client.dbsize() == 0


def test_answers_come_in_the_order_of_the_batches(client: Redis, engine: NamedEngine) -> None:
    names = [b"k%d" % number for number in range(5)]
    client.mset(dict.fromkeys(names, b"1"))
    batches = [one_group(client, *names[: number + 1]) for number in range(len(names))]
    engine.send(batches[:2])
    engine.send(batches[2:3])
    assert engine.pending == 3
    answers = [engine.receive() for _ in range(3)]
    engine.send(batches[3:])
    answers += [engine.receive() for _ in range(2)]
    assert engine.pending == 0
    engine.close()
    # Each has deleted what those before it left
    assert [batch for batch, _ in answers] == batches
    assert [answer for _, answer in answers] == [Answer(1, [])] * 5


def test_a_closed_engine_begins_anew(client: Redis, engine: NamedEngine) -> None:
    client.mset({b"k0": b"1", b"k1": b"1"})
    for number in range(2):
        engine.open()
        engine.send([one_group(client, b"k%d" % number)])
        if number:
            assert engine.receive()[1] == Answer(1, [])
        engine.close()
        assert engine.pending == 0
    engine.close()


def two_groups(client: Redis) -> Batch:
    """A batch with a group by each of two guards."""
    client.mset({b"g0": b"v", b"g1": b"v", b"k0": b"1", b"k1": b"1"})
    batch = new_batch(client)
    for number in range(2):
        batch.add_group((add(batch, b"g%d" % number, THE_VALUE),), [b"k%d" % number])
    return batch


@pytest.mark.every_server
def test_what_changes_after_the_look_is_looked_at_again(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = two_groups(client)
    attempts = meddling(monkeypatch, lambda attempt: attempt == 1 and client.set(b"g1", b"w"))
    assert delete(PythonEngine(client), batch) == Answer(1, [1])
    assert attempts == [1, 2]
    assert all_keys(client) == {b"g0", b"g1", b"k1"}


@pytest.mark.every_server
@pytest.mark.parametrize("guard", GUARDS.values(), ids=list(GUARDS))
def test_a_guard_of_any_kind_is_watched(client: Redis, monkeypatch: pytest.MonkeyPatch, guard: Guard) -> None:
    batch = two_groups(client)
    write_state(client, KEY, min(guard.holds))
    batch.add_group((add(batch, KEY, guard),), [b"k0", b"k1"])
    change = "w" if guard.kind != "field" else "hash, other value"

    def happen(attempt: int) -> None:
        if attempt == 1:
            write_state(client, KEY, change)

    meddling(monkeypatch, happen)
    assert delete(PythonEngine(client), batch) == Answer(2, [2])


@pytest.mark.every_server
def test_what_changes_all_the_time_is_given_up(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = two_groups(client)
    # Given a guard that somebody writes anew all the time, with the value that it has
    attempts = meddling(monkeypatch, lambda _attempt: client.set(b"g1", b"v"))
    engine = PythonEngine(client)
    assert delete(engine, batch) == Answer(0, [], [0, 1])
    assert len(attempts) == ATTEMPTS
    assert all_keys(client) == {b"g0", b"g1", b"k0", b"k1"}
    # Then a connection that was in the middle of it is good for the next
    attempts.clear()
    monkeypatch.undo()
    assert delete(engine, batch) == Answer(2, [])


@pytest.mark.every_server
def test_scripts_that_were_flushed_are_loaded_again(client: Redis) -> None:
    """Whichever of the calls under way it hits, each is done once."""
    client.mset({b"k%d" % number: b"1" for number in range(6)})
    batches = [one_group(client, b"k%d" % number) for number in range(6)]
    engine = LuaEngine(client)
    engine.send(batches[:2])
    answers = [engine.receive()[1]]
    client.script_flush()
    engine.send(batches[2:5])
    answers += [engine.receive()[1] for _ in range(2)]
    client.script_flush()
    engine.send(batches[5:])
    answers += [engine.receive()[1] for _ in range(3)]
    engine.close()
    assert answers == [Answer(1, [])] * 6
    assert client.dbsize() == 0


@pytest.mark.every_server
@pytest.mark.parametrize(
    ("lacking", "guard"), [("exists", "no key"), ("hmget", "a field v"), ("getrange", "no string")]
)
def test_a_look_that_is_refused_leaves_no_connection_in_a_transaction(
    server: Server, client: Redis, lacking: str, guard: str
) -> None:
    client.acl_setuser("user", enabled=True, nopass=True, keys=["*"], commands=["+@all", f"-{lacking}"])
    try:
        with server.client(username="user", password="any") as user:
            user.set(b"k", b"1")
            batch = new_batch(user)
            batch.add_group((add(batch, KEY, GUARDS[guard]),), [b"k"])
            with pytest.raises(NoPermissionError):
                delete(PythonEngine(user), batch)
            assert user.get(b"k") == b"1"
    finally:
        client.acl_deluser("user")
