"""Breaks sweeps off at random moments, as Celery's soft time limit does.

``python -m tests.breaking_off URL ENGINE`` is a program of its own, for the exception may strike anywhere,
in pytest's own hooks too. Exit status 0: each report was true.
"""

import random
import signal
import sys
from types import FrameType

from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.engines import NodeEngine
from cleanup_tasks.engines.lua import LuaEngine
from cleanup_tasks.engines.python import PythonEngine
from cleanup_tasks.failures import interrupts_unmasked
from cleanup_tasks.pace import FAR, NEAR
from cleanup_tasks.single import SingleServer
from cleanup_tasks.sweep import Sweep
from cleanup_tasks.topology import connect
from demo.dataset import KEYS_EACH, write_acceptance_data
from tests.sweeping import all_keys, new_report

COORDINATORS, ACTIVE = 300, 10
DOOMED = (COORDINATORS - ACTIVE) * KEYS_EACH
#: How many sweeps have to end with some keys gone and others not, and with the number known.
IN_THE_MIDDLE, EXACT = 30, 5

ENGINES: dict[str, type[NodeEngine]] = {"lua": LuaEngine, "python": PythonEngine}


class BrokenOff(Exception):
    """Raised by a signal, wherever the sweep is."""


def break_off(_number: int, _frame: FrameType | None) -> None:
    raise BrokenOff


def broken_off(sweep: Sweep, seconds: float) -> None:
    """Sweep for that long."""
    signal.signal(signal.SIGALRM, break_off)
    try:
        with interrupts_unmasked(BrokenOff):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            sweep.run()
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
    except BrokenOff:
        pass


def main(url: str, engine: str) -> None:
    whole_s, in_the_middle, exact = 0.1, 0, 0
    active = [keys.heartbeat(b"active-coordinator-%d" % number) for number in range(ACTIVE)]
    with Redis.from_url(url) as client:
        while in_the_middle < IN_THE_MIDDLE or exact < EXACT:
            client.flushall()
            write_acceptance_data(client, COORDINATORS, ACTIVE)
            report = new_report(engine)
            with connect(url) as servers:
                assert isinstance(servers, SingleServer)
                servers.pace = random.choice((NEAR, FAR))
                sweep = Sweep(servers, servers.engine(ENGINES[engine]), report)
                broken_off(sweep, random.uniform(0.0001, whole_s))
            gone = COORDINATORS * KEYS_EACH - len(all_keys(client))
            known = not report.cleanup_errors
            assert report.keys_deleted <= gone <= DOOMED, (gone, report)
            assert report.keys_deleted == gone or not known, (gone, report)
            assert gone == DOOMED or not report.complete, (gone, report)
            assert client.exists(*active) == ACTIVE
            whole_s *= 0.97 if report.complete else 1
            if 0 < gone < DOOMED:
                in_the_middle += 1
                exact += known


if __name__ == "__main__":
    main(*sys.argv[1:])
