"""Breaks sweeps off at random moments, as Celery's soft time limit does.

``python -m tests.support.breaking_off URL ENGINE`` is a program of its own, for the exception may strike
anywhere, in pytest's own hooks too. Exit status 0: each report was true.
"""

import random
import signal
import sys
from collections.abc import Callable
from types import FrameType

from redis import Redis

from cleanup_tasks.engines import engine_for
from cleanup_tasks.engines.batch import EngineName
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.errors import interrupts_unmasked
from cleanup_tasks.servers.pipelining import HIGH_LATENCY, LOW_LATENCY
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.servers.topology import servers_at
from cleanup_tasks.servers.url import parse
from cleanup_tasks.sweep.options import Progress
from demo.dataset import KEYS_EACH, write_acceptance_data
from tests.support.sweeping import all_keys, clean, new_report

COORDINATORS, ACTIVE = 300, 10
STALE = COORDINATORS - ACTIVE
#: With a message from each of the stale to the next one.
DOOMED = STALE * KEYS_EACH + STALE - 1
#: How many sweeps have to end with some keys gone and others not, and with the number known.
IN_THE_MIDDLE, EXACT = 30, 5


class BrokenOff(Exception):
    """Raised by a signal, wherever the sweep is."""


def break_off(_number: int, _frame: FrameType | None) -> None:
    raise BrokenOff


def broken_off(sweep: Callable[[Progress], None], phase: str, seconds: float) -> None:
    """Sweep, for that long after a phase began."""
    signal.signal(signal.SIGALRM, break_off)
    begun = False

    def progress(what: str, _done: int, _total: int) -> None:
        nonlocal begun
        if what == phase and not begun:
            begun = True
            signal.setitimer(signal.ITIMER_REAL, seconds)

    try:
        with interrupts_unmasked((BrokenOff,)):
            sweep(progress)
            # else it would go off when the next sweep is prepared
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
    except BrokenOff:
        pass


def write(client: Redis) -> None:
    client.flushall()
    write_acceptance_data(client, COORDINATORS, ACTIVE)
    message = "blocking:idempotency:test-coordinator-{}:test-coordinator-{}:done:1:1760000000000"
    client.mset({message.format(number, number + 1): "1" for number in range(STALE - 1)})


def main(url: str, engine: EngineName) -> None:
    phases = {"finding": 0.05, "collecting": 0.05, "reaping": 0.05}
    in_the_middle, exact = 0, 0
    active = [keys.heartbeat(b"active-coordinator-%d" % number) for number in range(ACTIVE)]
    with Redis.from_url(url) as client:
        while in_the_middle < IN_THE_MIDDLE or exact < EXACT:
            write(client)
            there = client.dbsize()
            report = new_report(engine)
            with servers_at(parse(url)) as servers:
                assert isinstance(servers, SingleServer)
                servers.limits = random.choice((LOW_LATENCY, HIGH_LATENCY))
                deleting = engine_for(servers, engine)
                phase = random.choice(list(phases))
                broken_off(
                    lambda progress: clean(servers, deleting, report, progress=progress),  # noqa: B023
                    phase,
                    random.uniform(0.0001, phases[phase]),
                )
            gone = there - len(all_keys(client))
            known = not report.cleanup_errors
            assert report.keys_deleted <= gone <= DOOMED, (gone, report)
            assert report.keys_deleted == gone or not known, (gone, report)
            assert gone == DOOMED or not report.complete, (gone, report)
            assert client.exists(*active) == ACTIVE
            phases[phase] *= 0.8 if report.complete else 1.1
            if 0 < gone < DOOMED:
                in_the_middle += 1
                exact += known


if __name__ == "__main__":
    main(sys.argv[1], "lua" if sys.argv[2] == "lua" else "python")
