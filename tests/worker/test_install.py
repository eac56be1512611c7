"""`install` adds the cleanup to an application, and whatever the application has stays as it is."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task
from celery.beat import PersistentScheduler, Scheduler
from celery.schedules import crontab
from kombu import Queue

from cleanup_tasks import install
from cleanup_tasks.host import TASKS
from cleanup_tasks.schedule import ENTRY

THEIRS = ("shop.price", "shop.report", "elsewhere")
SHOP = {"shop.*": {"queue": "shop", "priority": 3}}
NIGHTLY = {"nightly": {"task": "shop.report", "schedule": crontab(hour="3")}}
US_AND_EU = {
    "COORDINATION_REDIS_URL__EU_1": "redis://eu",
    "CLEANUP_INTERVAL_SECONDS__EU_1": "60",
    "CLEANUP_INTERVAL_SECONDS": "900",
}
LIMITED = {"soft_time_limit": 48.0, "time_limit": 54.0}


def work() -> None:
    """What a task of the host's does."""


def everything(name: str, *_: Any, **__: Any) -> dict[str, Any] | None:
    """A router of the host's that has an opinion on every task."""
    return {"queue": f"for-{name}"}


class Reports:
    """An annotation of the host's that is an object."""

    def annotate(self, task: Task) -> dict[str, Any] | None:
        """Only for one task."""
        return {"priority": 7} if task.name == "shop.report" else None


@pytest.fixture
def host() -> Iterator[Celery]:
    """An application with everything of its own, some of it in its constructor."""
    with Celery("host", broker="memory://", include=["json"], set_as_current=False) as app:
        app.conf.update(imports=["math"], timezone="Europe/Berlin", worker_prefetch_multiplier=4)
        for name in THEIRS:
            app.task(name=name)(work)
        yield app


def seen(app: Celery, *names: str) -> list[Any]:
    """What becomes of these tasks in an application: where they go, and their attributes."""
    app.loader.import_default_modules()
    attributes = ("max_retries", "priority", "rate_limit", "time_limit", "soft_time_limit", "acks_late")
    app.amqp.flush_routes()
    return [
        (
            app.amqp.router.route({}, name)["queue"].name,
            [getattr(app.tasks[name], attribute) for attribute in attributes],
        )
        for name in names
    ]


ROUTES: list[Any] = [
    None,
    {},
    SHOP,
    {"*": "everything"},
    [SHOP, {"*": {"queue": "rest"}}],
    (SHOP, everything),
    [list(SHOP.items())],
    everything,
    f"{__name__}.everything",
]
ANNOTATIONS: list[Any] = [
    None,
    {"*": {"max_retries": 0}, "shop.price": {"rate_limit": "1/s"}},
    [{"shop.price": {"rate_limit": "1/s"}}, Reports()],
    Reports(),
    {TASKS[0]: {"priority": 2}},
]


@pytest.mark.parametrize("routes", ROUTES)
@pytest.mark.parametrize("annotations", ANNOTATIONS)
def test_all_of_theirs_is_still_there(host: Celery, routes: Any, annotations: Any) -> None:
    with Celery("untouched", broker="memory://", include=["json"], set_as_current=False) as other:
        for app in (host, other):
            app.conf.update(task_routes=routes, task_annotations=annotations, beat_schedule=NIGHTLY)
        for name in THEIRS:
            other.task(name=name)(work)
        before = dict(host.conf)
        install(host, queue="maintenance", interval=60)
        assert seen(host, *THEIRS) == seen(other, *THEIRS)
    assert host.conf.beat_schedule.items() > NIGHTLY.items()
    assert set(host.conf.include) == {"json", "cleanup_tasks.tasks"}
    changed = {name for name in before if before[name] != host.conf[name]}
    assert changed == {"include", "task_routes", "task_annotations", "beat_schedule"}
    # and ours
    assert {queue for queue, _ in seen(host, *TASKS)} == {"maintenance"}
    limits = [{name: getattr(host.tasks[task], name) for name in LIMITED} for task in TASKS]
    assert limits == [LIMITED, LIMITED]
    assert host.tasks[TASKS[0]].priority == (2 if annotations == ANNOTATIONS[-1] else None)
    entry = host.conf.beat_schedule[ENTRY]
    assert (entry["task"], entry["schedule"].seconds) == ("cleanup_tasks.cleanup", 60.0)
    # once more changes nothing
    after = dict(host.conf)
    install(host, queue="maintenance", interval=60)
    assert dict(host.conf) == after


def test_what_the_caller_leaves_open(host: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANUP_INTERVAL_SECONDS", "60")
    monkeypatch.setenv("REDIS_PORT", "somebody else's")
    host.conf.task_routes = {"cleanup*": {"queue": "theirs", "priority": 1}}
    install(host)
    assert host.conf.beat_schedule[ENTRY]["schedule"].seconds == 60.0
    assert [queue for queue, _ in seen(host, *TASKS)] == ["theirs", "theirs"]


def test_a_wrong_setting_stops_no_application(host: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANUP_INTERVAL_SECONDS", "often")
    install(host)
    assert host.conf.beat_schedule[ENTRY]["schedule"].seconds == 300.0


@pytest.mark.parametrize(("interval", "expected"), [(None, [60.0, 900.0]), (30, [30.0, 30.0])])
def test_each_target_has_an_entry(
    host: Celery, monkeypatch: pytest.MonkeyPatch, interval: float | None, expected: list[float]
) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    for name, value in {"COORDINATION_REDIS_URL__US": "redis://:hidden@us", **US_AND_EU}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        install(host, queue="maintenance", interval=interval)
    entries = host.conf.beat_schedule
    assert list(entries) == [f"{ENTRY}-eu-1", f"{ENTRY}-us"]
    assert [entry["schedule"].seconds for entry in entries.values()] == expected
    assert [entry["kwargs"] for entry in entries.values()] == [{"target": "eu-1"}, {"target": "us"}]
    assert [entry["options"]["time_limit"] for entry in entries.values()] == [0.9 * s for s in expected]
    assert "hidden" not in str(host.conf.humanize(with_defaults=True, censored=False))


def test_a_cleanup_of_theirs_is_the_only_one(host: Celery) -> None:
    theirs = {"mine": {"task": TASKS[0], "schedule": crontab(minute="*/5")}}
    host.conf.beat_schedule = theirs
    install(host)
    assert host.conf.beat_schedule == theirs


def test_a_dry_run_of_theirs_is_no_cleanup(host: Celery) -> None:
    host.conf.beat_schedule = {"look": {"task": TASKS[0], "schedule": 60, "kwargs": {"dry_run": True}}}
    install(host, interval=60)
    assert host.conf.beat_schedule.keys() == {"look", ENTRY}


@pytest.mark.parametrize(
    "theirs",
    [
        {"task_time_limit": 30},
        {"task_soft_time_limit": 30},
        {"task_annotations": {"*": {"time_limit": 30}}},
        {"task_annotations": [{"*": {"soft_time_limit": 30}}]},
        {"task_annotations": {TASKS[0]: {"time_limit": 30}}},
    ],
    ids=str,
)
def test_time_limits_of_theirs_hold(host: Celery, theirs: dict[str, Any]) -> None:
    host.conf.update(theirs)
    install(host, interval=60)
    host.loader.import_default_modules()
    task = host.tasks[TASKS[0]]
    # (Celery 5.6 reads what is for all tasks only later)
    assert {task.time_limit, task.soft_time_limit} - {30} == {None}
    assert not {"time_limit", "soft_time_limit"} & set(host.conf.beat_schedule[ENTRY]["options"])


@pytest.mark.parametrize(
    ("theirs", "arguments", "message"),
    [
        (
            {"task_routes": {"cleanup_tasks.*": {"queue": "theirs"}}},
            {"queue": "ours"},
            "queue: task_routes has {'queue': 'theirs'} for our tasks, not 'ours'; leave one out",
        ),
        (
            {"task_routes": [{TASKS[0]: "theirs"}]},
            {"queue": "ours"},
            "queue: task_routes has {'queue': 'theirs'} for our tasks, not 'ours'; leave one out",
        ),
        (
            {"task_queues": [Queue("theirs")], "task_create_missing_queues": False},
            {"queue": "ours"},
            "queue: task_queues has no 'ours', and task_create_missing_queues is off",
        ),
        (
            {"beat_schedule": {"mine": {"task": TASKS[0], "schedule": 5}}},
            {"interval": 60},
            "interval: beat_schedule has a cleanup already, mine; leave one out",
        ),
        (
            {"beat_schedule": {ENTRY: {"task": "shop.report", "schedule": 5}}},
            {"interval": 60},
            f"interval: beat_schedule has a cleanup already, {ENTRY}; leave one out",
        ),
        (
            {"task_routes": {"cleanup_tasks.*": {"exchange": "theirs", "routing_key": "ours"}}},
            {"queue": "ours"},
            "queue: task_routes has {'exchange': 'theirs', 'routing_key': 'ours'} for our tasks, not 'ours'; "
            "leave one out",
        ),
        *(
            ({}, {"interval": value}, f"interval: a number of seconds, 1 to 999999999, not {value!r}")
            for value in (0, 0.5, True, "5", math.nan, math.inf, 1e12)
        ),
        *(({}, {"queue": value}, f"queue: the name of a queue, not {value!r}") for value in ("", 5, ["a"])),
    ],
    ids=str,
)
def test_a_conflict_is_refused_and_nothing_changed(
    host: Celery, theirs: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    host.conf.update(theirs)
    before = dict(host.conf)
    with pytest.raises(ValueError) as refusal:
        install(host, **arguments)
    assert str(refusal.value) == message
    assert dict(host.conf) == before


@pytest.mark.parametrize("routes", [{TASKS[0]: {"priority": 3}}, [{"cleanup_tasks.*": {"priority": 3}}]])
def test_a_route_without_a_queue_is_no_conflict(host: Celery, routes: Any) -> None:
    host.conf.task_routes = routes
    for _ in range(2):
        install(host, queue="ours")
        host.amqp.flush_routes()
        route = host.amqp.router.route({}, TASKS[0])
        assert (route["queue"].name, route["priority"]) == ("ours", 3)


def test_what_was_changeable_still_is(host: Celery) -> None:
    install(host, queue="ours")
    host.conf.include.append("math")
    host.conf.task_routes["shop.*"] = "shop"
    assert [queue for queue, _ in seen(host, "shop.price", TASKS[0])] == ["shop", "ours"]


def test_its_beat_starts_when_this_package_is_gone(host: Celery, tmp_path: Path) -> None:
    """What a beat has written into its file is readable without us."""
    host.conf.beat_schedule = NIGHTLY
    file = str(tmp_path / "schedule")
    install(host, queue="maintenance")
    PersistentScheduler(host, schedule_filename=file).close()
    program = """
import sys
sys.modules["cleanup_tasks"] = None
from celery import Celery
from celery.beat import PersistentScheduler
from celery.schedules import crontab
app = Celery("host", broker="memory://")
app.conf.update(timezone="Europe/Berlin")
app.conf.beat_schedule = {"nightly": {"task": "shop.report", "schedule": crontab(hour="3")}}
print(list(PersistentScheduler(app, schedule_filename=sys.argv[1]).schedule))
"""
    done = subprocess.run([sys.executable, "-c", program, file], text=True, capture_output=True)
    assert "nightly" in done.stdout, done.stderr
    assert ENTRY not in done.stdout


def test_targets_are_spread_over_the_interval(host: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDINATION_REDIS_URL")
    for name in ("A", "B", "C"):
        monkeypatch.setenv(f"COORDINATION_REDIS_URL__{name}", "redis://h")
    install(host, interval=300)
    scheduler = Scheduler(host)
    due = [scheduler.schedule[f"{ENTRY}-{name}"].is_due() for name in "abc"]
    assert [is_due for is_due, _ in due] == [True, False, False]
    assert [wait_s for _, wait_s in due] == pytest.approx([300, 100, 200], abs=10)


def test_a_beat_that_was_away_goes_on(host: Celery, tmp_path: Path) -> None:
    """The file keeps when each was sent, so a start of beat's is no reason to send all of them."""
    install(host, interval=300)
    file = str(tmp_path / "schedule")
    for expected in (True, False):
        scheduler = PersistentScheduler(host, schedule_filename=file)
        entry = scheduler.schedule[ENTRY]
        assert entry.is_due().is_due == expected
        scheduler.reserve(entry)
        scheduler.close()


@pytest.mark.parametrize("are_made", [False, True], ids=["annotations read", "our tasks made"])
def test_limits_hold_where_tasks_were_made_before(host: Celery, are_made: bool) -> None:
    """Celery reads the annotations once, when it makes the first task."""
    host.conf.task_annotations = {"shop.price": {"rate_limit": "1/s"}, TASKS[0]: {"priority": 2}}
    assert len(host.annotations) == 1
    if are_made:
        host.conf.include = ["cleanup_tasks.tasks"]
        host.loader.import_default_modules()
        assert host.tasks[TASKS[0]].priority == 2
    install(host, queue="maintenance", interval=60)
    theirs, *ours = seen(host, "shop.price", *TASKS)
    assert theirs[1][2] == "1/s"
    # priority, and the two time limits
    assert [(queue, found[1], found[3:5]) for queue, found in ours] == [
        ("maintenance", 2, [54.0, 48.0]),
        ("maintenance", None, [54.0, 48.0]),
    ]


LATER = {
    "include": ["json"],
    "task_routes": SHOP,
    "task_annotations": {"shop.price": {"rate_limit": "1/s"}},
    "beat_schedule": NIGHTLY,
    "timezone": "Europe/Berlin",
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("arguments", [{}, {"broker": "memory://"}], ids=str)
def test_a_configuration_that_is_read_later(arguments: dict[str, str], times: int) -> None:
    """All is as if it had been read before."""
    with (
        Celery("first", set_as_current=False, **arguments) as first,
        Celery("later", set_as_current=False, **arguments) as later,
    ):
        first.config_from_object(LATER)
        install(first, queue="maintenance", interval=60)
        for _ in range(times):
            install(later, queue="maintenance", interval=60)
            later.config_from_object(LATER)
        for name in LATER:
            if name != "beat_schedule":  # in which is the time
                assert later.conf[name] == first.conf[name]
        assert later.conf.beat_schedule.keys() == {"nightly", ENTRY}
        assert seen(later, *TASKS) == seen(first, *TASKS)


def handle(app: Celery, calls: list[str]) -> None:
    """A handler of the host's, which gives its beat an entry."""

    @app.on_after_configure.connect(weak=False)  # type: ignore[untyped-decorator]
    def setup_periodic_tasks(sender: Celery, **_: Any) -> None:
        calls.append(sender.conf.timezone)
        sender.add_periodic_task(60, sender.signature("shop.price"), name="periodic")


STEPS: dict[str, Callable[[Celery, list[str]], Any]] = {
    "install": lambda app, _: install(app, queue="maintenance", interval=60),
    "handler": handle,
    "read": lambda app, _: app.config_from_object(LATER),
    "assign": lambda app, _: app.conf.update(LATER),
    "periodic": lambda app, _: app.add_periodic_task(60, app.signature("shop.price"), name="periodic"),
    "defaults": lambda app, _: app.add_defaults({"task_compression": "gzip"}),
}


@pytest.mark.parametrize("arguments", [{}, {"broker": "memory://"}], ids=str)
@pytest.mark.parametrize(
    "order",
    [
        "read install handler",
        "assign install handler",
        "install handler assign",
        "handler install read",
        "install handler read",
        "periodic install read",
        "defaults install read",
        "read install defaults periodic",
    ],
)
def test_what_celery_does_once_is_done_once(order: str, arguments: dict[str, str]) -> None:
    """Handlers of its configuration, defaults and periodic tasks: all is as it is without `install`."""
    names = order.split()
    with (
        Celery("host", set_as_current=False, **arguments) as host,
        Celery("untouched", set_as_current=False, **arguments) as other,
    ):
        calls: dict[Celery, list[str]] = {host: [], other: []}
        for app in (host, other):
            for name in names:
                if app is host or name != "install":
                    STEPS[name](app, calls[app])
        assert not host.configured
        assert host.conf.beat_schedule.keys() - {ENTRY} == other.conf.beat_schedule.keys()
        assert ENTRY in host.conf.beat_schedule
        assert host.conf.task_compression == other.conf.task_compression
        assert calls[host] == calls[other] == ["Europe/Berlin"] * names.count("handler")
        assert {queue for queue, _ in seen(host, *TASKS)} == {"maintenance"}


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"queue": ""}], ids=str)
def test_a_wrong_argument_is_refused_at_once(arguments: dict[str, Any]) -> None:
    with Celery("host", broker="memory://", set_as_current=False) as app:
        with pytest.raises(ValueError):
            install(app, **arguments)
        assert not app.configured
        assert ENTRY not in app.conf.beat_schedule


def test_a_conflict_with_a_configuration_that_is_read_later(caplog: pytest.LogCaptureFixture) -> None:
    with Celery("host", broker="memory://", set_as_current=False) as app:
        install(app, queue="ours")
        app.config_from_object({"task_routes": {TASKS[0]: {"queue": "theirs"}}})
        assert app.conf.beat_schedule == {}
    (line,) = caplog.messages
    assert line == (
        "No cleanup was added to the configuration that was read last: "
        "queue: task_routes has {'queue': 'theirs'} for our tasks, not 'ours'; leave one out"
    )
