"""One run of one way, measured: on the clock, in the worker, on the server, and by another client."""

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.beats import beating
from benchmarks.link import slow_link
from benchmarks.place import Place, pin
from benchmarks.plan import IDLE, SLOW, Way

#: Variables that would change what a sweep does.
SETTINGS = ("CELERY_", "CLEANUP_", "COORDINATION_", "REDIS_")
#: The figures of a run.
#: "wall ms": from before the connection to after the last answer; "start ms": all before;
#: "worker ms", "peak MB": CPU time and most memory of the process, its start included;
#: "server ms": CPU time of the server's main thread; "longest ms", "longest": the longest command;
#: "beats ms": how long the server took for each beat of a client that beat meanwhile.
Run = dict[str, Any]


def execute(way: Way, place: Place, url: str) -> tuple[Run, float]:
    """Run the command of a way: the figures of its process, and when it ended by `time.perf_counter`.

    Ends the benchmark where it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    environment |= {"COORDINATION_REDIS_URL": url, "CLEANUP_LOG_FILE": "", "BENCH_PORTS": str(place.ports)}
    # some data sets have nobody who is alive, and servers have just come up
    environment |= {"CLEANUP_HOLD_PERCENT": "0", "CLEANUP_RESTART_GRACE_SECONDS": "0"}
    command = [sys.executable, "-m", *way.words]
    started_s = time.perf_counter()
    with subprocess.Popen(command, cwd=way.checkout, env=environment, stdout=subprocess.PIPE) as process:
        try:
            if place.single:
                pin(process.pid)
            assert process.stdout
            said = process.stdout.readline()
            ended_s = time.perf_counter()
            said += process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            process.kill()
    report = {} if process.returncode else json.loads(said)
    fell_back = report.get("implementation") == "python" and "--fallback" not in command
    if process.returncode or fell_back:
        sys.exit(f"Error: {way.name} ended with status {process.returncode}: {said[:500]!r}")
    wall_ms = report["executionTimeMs"]
    return {
        "wall ms": wall_ms,
        "start ms": (ended_s - started_s) * 1000 - wall_ms,
        "worker ms": (usage.ru_utime + usage.ru_stime) * 1000,
        "peak MB": usage.ru_maxrss * 1024 / 1e6,
    }, ended_s


def measure(way: Way, place: Place, *, beats: bool) -> Run:
    """Run a way on a fresh data set, with `beats` while another client sends heartbeats.

    Ends the benchmark if it deleted other keys than it had to: then its time is worth nothing.
    """
    place.restore()
    server_ms, keys = place.state()
    with contextlib.ExitStack() as stack:
        slow = way.name.endswith(SLOW)
        url = stack.enter_context(slow_link(place.ports[0])) if slow else place.url
        sent = stack.enter_context(beating(place.ports[0])) if beats else []
        run, ended_s = execute(way, place, url)
    server_ms_after, keys_after = place.state()
    run["server ms"] = server_ms_after - server_ms
    run["longest ms"], run["longest"] = place.longest()
    began_s = ended_s - run["wall ms"] / 1000
    run["beats ms"] = [round(took_s * 1000, 3) for sent_s, took_s in sent if began_s <= sent_s <= ended_s]
    expected = beats - (0 if way.name == IDLE else place.dataset.doomed)
    if (more := keys_after - keys) != expected:
        sys.exit(f"Error: {way.name} on {place.dataset}: {more:+,} keys instead of {expected:+,}")
    return run
