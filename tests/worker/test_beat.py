"""A real beat: when it sends, what becomes of what it sent, and whether its health check tells the truth."""

import os
import re
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from cleanup_tasks.rules import keys
from cleanup_tasks.sweep.cooldown import KEEP_S
from demo.dataset import STALE_AGE_MS, write_coordinators
from demo.fleet import Fleet, fleet
from demo.servers import Server, free_port, wait_until
from demo.stack import ROOT

HOUR = {"CLEANUP_INTERVAL_SECONDS": "3600"}
#: Where Debian's package libfaketime has its library.
FAKETIME = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")


def waiting(running: Fleet) -> int:
    """How many messages no worker has taken yet."""
    with running.broker.client(db=1) as messages:
        return int(messages.llen("cleanup"))


def health(running: Fleet) -> subprocess.CompletedProcess[str]:
    """What the health check says."""
    command = [sys.executable, "-m", "cleanup_tasks.beat_health"]
    return subprocess.run(command, cwd=ROOT, env=running.stack.environment, text=True, capture_output=True)


def outcomes(running: Fleet) -> list[str]:
    """How the worker's sweeps ended."""
    lines = [line for line in running.stack.log("worker").splitlines() if "cleanup_sweep " in line]
    return [line.split("outcome=")[1].split()[0] for line in lines]


def test_a_beat_that_starts_more_often_than_the_interval(
    server: Server, client: Redis, broker: Server, tmp_path: Path
) -> None:
    """It sends each time, and that is as good as one: the first is swept, the others are skipped."""
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    with fleet(server, broker, tmp_path, HOUR) as running:
        for number in range(1, 4):
            running.stack.start_beat()
            wait_until(lambda: waiting(running) == number, "it has sent one")  # noqa: B023
            running.stack.stop("beat")
        running.stack.start_worker()
        wait_until(lambda: len(outcomes(running)) == 3, "all messages are taken")
        assert outcomes(running) == ["success", "skipped", "skipped"]
        assert "beat's last sweep began less than half an interval ago" in running.stack.log("worker")
        # What anybody else asks for is done
        assert client.keys() == [keys.COOLDOWN]
        assert 0 < client.ttl(keys.COOLDOWN) <= KEEP_S
        write_coordinators(client, [b"stale"], STALE_AGE_MS)
        assert running.run()["keysDeleted"] == 6


def test_beat_sends_on_the_wall_clock(server: Server, broker: Server, tmp_path: Path) -> None:
    interval_s = 4
    with fleet(server, broker, tmp_path, {"CLEANUP_INTERVAL_SECONDS": str(interval_s)}) as running:
        running.stack.start_beat()
        wait_until(lambda: waiting(running) == 1, "one is sent at the start")
        for number in (2, 3, 4):
            wait_until(lambda: waiting(running) == number, "the next is sent", 2 * interval_s)  # noqa: B023
            assert time.time() % interval_s < 1


def test_its_health_is_what_it_has_sent(server: Server, broker: Server, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    environment = HOUR | {"CLEANUP_BEAT_FILE": str(sign)}
    with fleet(server, broker, tmp_path, environment) as running:
        # Without a broker, a start alone says nothing
        nowhere = {"CELERY_BROKER_URL": f"redis://127.0.0.1:{free_port()}/1"}
        running.stack.start("beat", "beat", "--loglevel", "INFO", "--pidfile=", environment=nowhere)
        running.stack.wait_for_line("beat", "Connection error")
        assert (health(running).returncode, sign.exists()) == (1, False)
        assert "the beat has sent no cleanup yet" in health(running).stderr
        running.stack.stop("beat")
        # With one, the first is sent at once
        running.stack.start_beat()
        wait_until(sign.exists, "it has sent one")
        assert waiting(running) == 1
        assert health(running).returncode == 0


@pytest.mark.parametrize("age_s", [-3600, 8000])
def test_an_old_sign_of_life_and_one_of_the_future(
    age_s: int, server: Server, broker: Server, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    sign.touch()
    os.utime(sign, (time.time() - age_s,) * 2)
    with fleet(server, broker, tmp_path, HOUR | {"CLEANUP_BEAT_FILE": str(sign)}) as running:
        done = health(running)
    assert (done.returncode, done.stdout) == (1, "")
    told = re.fullmatch(
        r"the beat last sent a cleanup (-?\d+) s ago, which is not within 7200 s\n", done.stderr
    )
    assert told is not None
    assert age_s <= int(told[1]) < age_s + 60


@pytest.mark.debian
def test_a_worker_whose_clock_is_ten_minutes_ahead_of_beats(
    server: Server, client: Redis, broker: Server, tmp_path: Path
) -> None:
    write_coordinators(client, [b"stale"], STALE_AGE_MS)
    (library,) = FAKETIME
    ahead = {"LD_PRELOAD": str(library), "FAKETIME": "+10m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with fleet(server, broker, tmp_path, {"CLEANUP_INTERVAL_SECONDS": "2"}) as running:
        running.stack.start_worker(environment=ahead)
        running.stack.start_beat()
        wait_until(lambda: outcomes(running)[:1] == ["success"], "the worker has swept")
        (line,) = [line for line in running.stack.log("worker").splitlines() if "Keys deleted: 6" in line]
        shown = datetime.strptime(line[1:20], "%Y-%m-%d %H:%M:%S")
        assert shown > datetime.now() + timedelta(minutes=9)
