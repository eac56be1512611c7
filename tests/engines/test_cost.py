"""What a sweep asks of the server, counted in commands and bytes, which don't depend on the machine."""

from collections import Counter
from typing import Any

import pytest
from redis import Redis

from cleanup_tasks.engines.python import WATCH_KEYS
from cleanup_tasks.reporting.report import Report
from cleanup_tasks.rules import keys
from cleanup_tasks.rules.keys import MAX_SEGMENTS
from cleanup_tasks.servers.client import server_time_ms
from cleanup_tasks.servers.pipelining import HIGH_LATENCY, Limits
from cleanup_tasks.servers.pipelining import LOW_LATENCY as LIMITS
from cleanup_tasks.servers.single import SingleServer
from demo.dataset import KEYS_EACH, keys_of, write_acceptance_data
from tests.support.sweeping import Before, NamedEngine, clean, monitored, new_report
from tests.support.sweeping import sweep as sweep_within

COORDINATORS = 2_000
STALE = 1_980
#: One of them, whose id is as long as nearly all are.
LAST = b"test-coordinator-%d" % (STALE - 1)
#: Keys that are named though the data has none of them: those of whole ids, whether they are there or not.
ABSENT = {family + LAST for family in keys.WHOLE_ID} - {*keys_of(LAST)}
#: What one coordinator is in a batch: its six keys, those that are named besides, and two guards.
LOAD = KEYS_EACH + len(ABSENT) + 2
#: A batch is full once it holds so many coordinators.
BATCHES = -(-STALE // -(-LIMITS.batch_keys // LOAD))
#: Pages in one pass.
PAGES = -(-COORDINATORS * KEYS_EACH // LIMITS.scan_count)
#: Heartbeats are read in lots, each with the server's time, and the activities of the stale among them.
LOTS = -(-COORDINATORS // LIMITS.read_keys)
#: A pass for the heartbeats; whether there are sightings of orphans.
#: With what the sweep before has noted, and two looks at the clock.
LOOKING = Counter({"scan": PAGES, "time": 2 * LOTS + 2, "getrange": COORDINATORS, "exists": 1, "get": 1})
#: Related keys, whose messages are as old as it is now.
COLLECTING = Counter({"scan": PAGES, "time": 2})
#: The activities of those that are stale.
ACTIVITIES = Counter({"getrange": STALE})
#: Per batch; what a script calls counts too.
REAPING = {
    "lua": {"evalsha": 1, "time": 1, "unlink": 1},
    "python": {"watch": 1, "time": 1, "multi": 1, "unlink": 1, "exec": 1},
}
#: Heartbeat and activity of each are compared with what was read.
COMPARING = Counter({"getrange": 2 * STALE})
#: The script is loaded, and called with nothing to do.
FIRST = {"lua": {"script": 1, "evalsha": 1, "time": 1}, "python": {}}
#: How a connection introduces itself.
INTRODUCTIONS = ("client", "hello")
#: Bytes to the server and from it: what was measured, and 3 % for longer cursors and the like. To it go also
#: the names of absent keys, each with its length before it.
BYTES_LOOKING = {"off": (174_000, 262_000), "report": (175_000, 886_000)}
BYTES_ABSENT = STALE * sum(len(b"$%d\r\n%b\r\n" % (len(key), key)) for key in ABSENT)
BYTES = {"lua": (1_477_000 + BYTES_ABSENT, 1_022_000), "python": (1_459_000 + BYTES_ABSENT, 1_343_000)}


def sweep(
    client: Redis, engine: NamedEngine, orphans: str = "off"
) -> tuple[Report, Counter[str], tuple[int, int]]:
    """The report of a sweep, the calls of each command, and the bytes to the server and from it."""
    report = new_report(engine.name)
    client.config_resetstat()
    clean(SingleServer(client), engine, report, orphans=orphans)
    info: dict[str, Any] = client.info("everything")
    calls: Counter[str] = Counter()
    for name, row in info.items():
        if name.startswith("cmdstat_"):
            # since 7.0 with the subcommand: "script|load"
            calls[name.removeprefix("cmdstat_").split("|")[0]] += row["calls"]
    for name in ("info", "config", *INTRODUCTIONS):
        del calls[name]
    return report, calls, (info["total_net_input_bytes"], info["total_net_output_bytes"])


def reaping(engine: NamedEngine, batches: int) -> Counter[str]:
    """The commands for so many batches."""
    each = {name: number * batches for name, number in REAPING[engine.name].items()}
    return Counter(each) + Counter(FIRST[engine.name]) + COMPARING


def assert_calls(calls: Counter[str], expected: Counter[str]) -> None:
    """Exactly these commands, but for a few pages more where the server still grows its hash table."""
    assert expected["scan"] <= calls["scan"] <= 1.5 * expected["scan"] + 1
    assert calls == expected | Counter(scan=calls["scan"])


def test_most_are_stale(client: Redis, engine: NamedEngine) -> None:
    write_acceptance_data(client, COORDINATORS, COORDINATORS - STALE)
    report, calls, wire = sweep(client, engine)
    assert report.keys_deleted == STALE * KEYS_EACH
    assert_calls(calls, LOOKING + ACTIVITIES + COLLECTING + reaping(engine, BATCHES))
    assert_within(wire, BYTES[engine.name])


@pytest.mark.parametrize("orphans", ["off", "report"])
def test_nobody_is_stale(client: Redis, engine: NamedEngine, orphans: str) -> None:
    """Only who looks for orphans goes through the related keys."""
    write_acceptance_data(client, COORDINATORS, COORDINATORS)
    report, calls, wire = sweep(client, engine, orphans)
    assert report.active_coordinators == COORDINATORS
    assert_calls(calls, LOOKING + (COLLECTING if orphans == "report" else Counter()))
    assert_within(wire, BYTES_LOOKING[orphans])


@pytest.mark.parametrize("form", ["hub", "pairs"])
def test_messages_between_the_stale_cost_no_question(client: Redis, engine: NamedEngine, form: str) -> None:
    """They make batches fuller, and nothing else: each is one key more, and at most a party's two guards."""
    write_acceptance_data(client, COORDINATORS, COORDINATORS - STALE)
    parties = [
        (0 if form == "hub" else number * 7 % STALE, other)
        for number, other in enumerate(range(1, STALE))
        if form == "hub" or number * 7 % STALE != other
    ]
    message = "blocking:idempotency:test-coordinator-{}:test-coordinator-{}:done:1:2"
    client.mset({message.format(*both): "1" for both in parties})
    report, calls, _ = sweep(client, engine)
    assert report.keys_deleted == STALE * KEYS_EACH + len(parties)
    batches = calls["unlink"]
    assert BATCHES < batches <= BATCHES * (LOAD + 3) / LOAD + 2
    more_pages = calls["scan"] - 2 * PAGES
    assert 0 < more_pages <= 2 * (len(parties) // LIMITS.scan_count + 1)
    expected = LOOKING + ACTIVITIES + COLLECTING + reaping(engine, batches)
    assert 0 < calls["getrange"] - expected["getrange"] <= 2 * len(parties)
    # those of a full batch are more than one WATCH takes
    assert expected["watch"] <= calls["watch"] < 1.5 * expected["watch"] + 1
    for counter in (calls, expected):
        del counter["scan"], counter["getrange"], counter["watch"]
    assert calls == expected


def test_whether_others_have_gone_is_asked_for_all_of_a_batch_at_once(
    client: Redis, engine: NamedEngine
) -> None:
    """Old messages go with the last of their owners; the others must be absent by then."""
    write_acceptance_data(client, COORDINATORS, COORDINATORS - STALE)
    half = STALE // 2
    old_ms = server_time_ms(client) - 700_000
    message = f"blocking:idempotency:test-coordinator-{{}}:test-coordinator-{{}}:done:1:{old_ms}"
    client.mset({message.format(one, (one + half) % STALE): "1" for one in range(STALE)})
    absent = Before(engine, lambda *_: None)
    report = new_report(engine.name)
    client.config_resetstat()
    clean(SingleServer(client), absent, report)
    assert report.keys_deleted == STALE * (KEYS_EACH + 1)
    assert sum(len(batch.absent) for batch in absent.batches) > STALE // 2
    calls = client.info("commandstats")["cmdstat_exists"]["calls"]
    assert calls <= 1 + len(absent.batches)


def write_records(client: Redis, segments: int, *, records: int = 200, coordinators: int = 400) -> None:
    """Records of stale coordinators that name so many of them each."""
    now_ms = server_time_ms(client)
    ids = [b"c%d" % number for number in range(coordinators)]
    client.mset({keys.heartbeat(id_): b"%d" % (now_ms - 700_000) for id_ in ids})
    for record in range(records):
        named = [ids[(7 * record + 11 * place) % coordinators] for place in range(segments)]
        client.set(keys.IDEMPOTENCY + b":".join(named), "1")


def test_work_grows_with_the_segments_of_a_record(client: Redis, engine: NamedEngine) -> None:
    """And not with their square."""
    commands, sent = {}, {}
    for segments in (8, MAX_SEGMENTS):
        client.flushall()
        write_records(client, segments)
        report, calls, (sent[segments], _) = sweep(client, engine)
        assert report.keys_deleted == 600
        commands[segments] = calls.total()
    assert commands[MAX_SEGMENTS] < commands[8] * MAX_SEGMENTS / 8
    assert sent[MAX_SEGMENTS] < sent[8] * MAX_SEGMENTS / 8


@pytest.mark.parametrize("limits", [LIMITS, HIGH_LATENCY])
def test_how_much_one_command_holds_the_server(client: Redis, engine: NamedEngine, limits: Limits) -> None:
    """However many own a record: the keys of a batch, and those of a WATCH, have an end."""
    write_records(client, MAX_SEGMENTS, coordinators=1_000)
    batches = Before(engine, lambda *_: None)
    sent = monitored(client, lambda: sweep_within(client, batches, limits=limits))
    # a batch is full with exactly so many, and one more record may have been begun
    most = max(len(batch.guarded()) + len(batch.keys) for batch in batches.batches)
    assert limits.batch_keys <= most <= 2 * limits.batch_keys + 2 * MAX_SEGMENTS + 1
    watches = [len(words) - 1 for _sender, words in sent if words[0] == "WATCH"]
    assert bool(watches) == (engine.name == "python")
    assert all(number <= WATCH_KEYS for number in watches)


def test_commands_grow_with_the_keys(client: Redis, engine: NamedEngine) -> None:
    """Twice the coordinators, twice the commands."""
    write_acceptance_data(client, COORDINATORS, 20)
    _, calls, _ = sweep(client, engine)
    client.flushall()
    write_acceptance_data(client, 2 * COORDINATORS, 40)
    _, more_calls, _ = sweep(client, engine)
    assert 1.8 < sum(more_calls.values()) / sum(calls.values()) < 2.2


def assert_within(wire: tuple[int, int], limits: tuple[int, int]) -> None:
    """Neither direction takes more than its limit, nor so much less that the limit says nothing."""
    for direction, used, limit in zip(("to the server", "from it"), wire, limits, strict=True):
        assert 0.94 * limit < used <= limit, f"{used} bytes {direction}, limit {limit}"
