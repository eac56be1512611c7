"""Other schedulers that a host may have for its beat: RedBeat, and django-celery-beat."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redbeat import RedBeatSchedulerEntry
from redis import Redis

from cleanup_tasks.schedule import ENTRY
from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.servers import Server, wait_until
from demo.stack import ROOT, Stack

HOUR_S = 3600
NAMES = ("a", "b", "c")
REDBEAT = ("--scheduler", "redbeat.RedBeatScheduler", "--max-interval", "1", "--pidfile=")
DJANGO = ("--scheduler", "django", "--max-interval", "1", "--pidfile=")


@pytest.fixture
def messages(broker: Server) -> Iterator[Redis]:
    """The broker's database, with nothing in it."""
    with broker.client(db=1) as client:
        client.flushall()
        yield client


@pytest.fixture
def shop(messages: Redis, broker: Server, tmp_path: Path) -> Iterator[Stack]:
    """A shop with three targets that are swept once in an hour, and no worker."""
    environment = {
        "SHOP_BROKER": f"{broker.url}/1",
        "SHOP_INTERVAL": str(HOUR_S),
        "SHOP_DATABASE": str(tmp_path / "database"),
        "DJANGO_SETTINGS_MODULE": "tests.support.database",
        **{f"COORDINATION_REDIS_URL__{name.upper()}": "redis://h" for name in NAMES},
    }
    with Stack(environment, tmp_path, app="tests.support.foreign") as stack:
        yield stack


def sent(messages: Redis) -> list[str]:
    """The targets of the messages that wait, the oldest first."""
    waiting = [json.loads(message) for message in reversed(messages.lrange("maintenance", 0, -1))]
    return [message["headers"]["kwargsrepr"].split("'")[3] for message in waiting]


def runs_until(stack: Stack, options: tuple[str, ...], done: Callable[[], bool]) -> None:
    """A beat, from its start until something is so, and to its end."""
    stack.start("beat", "beat", *options, "--loglevel", "DEBUG")
    stack.wait_for_line("beat", "beat: Waking up")
    wait_until(done, "beat has done it")
    stack.stop("beat")


def test_redbeat_spreads_targets_and_a_restart_changes_nothing(shop: Stack, messages: Redis) -> None:
    app = Celery(set_as_current=False)
    app.conf.redbeat_redis_url = shop.environment["SHOP_BROKER"]

    def entries() -> list[RedBeatSchedulerEntry]:
        return [RedBeatSchedulerEntry.from_key(f"redbeat:{ENTRY}-{name}", app=app) for name in NAMES]

    def due_in_s() -> list[float]:
        judged = [entry.is_due() for entry in entries()]
        assert not any(is_due for is_due, _ in judged)
        return [wait_s for _, wait_s in judged]

    runs_until(shop, REDBEAT, lambda: sent(messages) == ["a"])
    spread = [HOUR_S, HOUR_S / 3, 2 * HOUR_S / 3]
    assert due_in_s() == pytest.approx(spread, abs=30)
    # the time of the last message is kept in Redis
    runs_until(shop, REDBEAT, lambda: "beat: Acquired lock" in shop.log("beat"))
    assert sent(messages) == ["a"]
    assert due_in_s() == pytest.approx(spread, abs=60)
    # away for longer than the interval
    for entry in entries():
        entry.reschedule(entry.last_run_at - timedelta(hours=2))
    runs_until(shop, REDBEAT, lambda: sorted(sent(messages)) == ["a", "a", "b", "c"])
    assert due_in_s() == pytest.approx([HOUR_S] * 3, abs=30)


def django(shop: Stack, program: str) -> Any:
    """What a program prints that has the shop's database."""
    setup = "import django, json; django.setup(); from django_celery_beat.models import *\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + program],
        cwd=ROOT,
        env=shop.environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "null")


ENTRIES = (
    "print(json.dumps([[row.name, row.enabled, row.interval.every, json.loads(row.kwargs),"
    " row.last_run_at.timestamp()] for row in"
    f" PeriodicTask.objects.filter(name__startswith='{ENTRY}').order_by('name')]))"
)


@pytest.fixture
def migrated(shop: Stack) -> Stack:
    """Its database has its tables."""
    django(shop, "from django.core.management import call_command; call_command('migrate', verbosity=0)")
    return shop


def test_django_stores_the_entries_and_a_restart_spreads_them_anew(migrated: Stack, messages: Redis) -> None:
    for number in (1, 2):
        began = datetime.now(UTC)
        runs_until(migrated, DJANGO, lambda: sent(messages) == ["a"] * number)  # noqa: B023
        entries = django(migrated, ENTRIES)
        assert [entry[:4] for entry in entries] == [
            [f"{ENTRY}-{name}", True, HOUR_S, {"target": name}] for name in NAMES
        ]
        ago = [began - datetime.fromtimestamp(entry[4], UTC) for entry in entries]
        assert [passed / timedelta(seconds=HOUR_S) for passed in ago] == pytest.approx(
            [0, 2 / 3, 1 / 3], abs=0.02
        )


def test_a_row_of_the_users(migrated: Stack, messages: Redis, server: Server, client: Redis) -> None:
    """A dry run that somebody has put into the table, and nothing else than that is done."""
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    django(
        migrated,
        "every, _ = IntervalSchedule.objects.get_or_create(every=1, period='seconds')\n"
        "PeriodicTask.objects.create(name='look', task='cleanup_tasks.cleanup', interval=every,"
        " queue='looks', kwargs=json.dumps({'target': 'a', 'dry_run': True}))",
    )
    settings = {"COORDINATION_REDIS_URL__A": server.url}
    options = ("--pool", "solo", "--queues", "looks", "--loglevel", "INFO", "--without-mingle")
    migrated.start("worker", "worker", *options, environment=settings)
    runs_until(migrated, DJANGO, lambda: migrated.log("worker").count("dry_run=true") >= 2)
    assert client.dbsize() == 6
