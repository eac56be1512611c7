"""One session: servers are started, and every group of the plan is measured on them."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from redis import Redis

from benchmarks.dataset import STALE_PATTERN
from benchmarks.link import round_trip_s, slow_link
from benchmarks.machine import Machine
from benchmarks.measure import measure, measure_beats
from benchmarks.place import Place, cluster, standalone
from benchmarks.plan import Group, floor_of, pass_of
from benchmarks.process import in_process
from benchmarks.results import Case, Results, wall_s
from benchmarks.ways import scan_pass, warm_up

#: What the slow link adds to every round trip.
LATENCY_S = 0.001
#: A way whose time grows with the square is not tried where it would take longer.
PATIENCE_S = 10.0
#: COUNTs among which the floor has its choice, with and without a pattern.
COUNTS = (1_000, 5_000, 20_000)


def run(groups: Iterable[Group], binary: str | None, show: Callable[[str], None]) -> Results:
    """Measure all groups, and `show` what is being done; `binary` is the server, see `standalone`."""
    warm_up()
    gc.freeze()  # children share what is imported, and don't copy it at their first collection
    groups = list(groups)
    with contextlib.ExitStack() as stack:
        single = stack.enter_context(standalone(binary))
        url = stack.enter_context(slow_link(single.servers[0].port, LATENCY_S))
        with single.servers[0].client() as client:
            results = Results(Machine.of(client))
        results.ping_s, results.slow_ping_s = round_trip_s(single.url), round_trip_s(url)
        for group in (group for group in groups if not group.cluster):
            _measure_group(group, single, url, results, show)
    with contextlib.ExitStack() as stack:
        several = stack.enter_context(cluster(binary)) if any(group.cluster for group in groups) else None
        for group in (group for group in groups if group.cluster):
            assert several
            _measure_group(group, several, "", results, show)
    return results


def _measure_group(
    group: Group, place: Place, slow_url: str, results: Results, show: Callable[[str], None]
) -> None:
    extra = (", cluster" if group.cluster else "") + (", with a beating client" if group.beats else "")
    show(f"{group.dataset}{extra}")
    place.fill(group.dataset)
    count, pattern = in_process(best_scan, place)
    passes = (pass_of(count),) if group.dataset.stale_share == 0 else ()
    for number in range(group.rounds):
        show(f"{group.dataset}{extra}, round {number + 1} of {group.rounds}")
        for way in (floor_of(group.cluster, count, pattern), *passes, *group.ways):
            case = Case(way.name, group.dataset, group.cluster, group.beats)
            if group.dataset.coordinators > way.largest or (way.quadratic and _too_long(case, results)):
                continue
            take = measure_beats if group.beats else measure
            url = slow_url if way.slow_link else place.url
            results.rounds[case].append(take(way, place, group.dataset, url))


def best_scan(place: Place) -> tuple[int, bytes | None]:
    """COUNT and pattern with which a pass over this keyspace is fastest."""
    took: dict[tuple[int, bytes | None], float] = {}
    for pattern in (None, STALE_PATTERN):
        for count in COUNTS:
            started = time.perf_counter()
            for server in place.servers:
                with Redis(port=server.port) as client:
                    scan_pass(count, pattern, client)
            took[count, pattern] = time.perf_counter() - started
    return min(took, key=took.__getitem__)


def _too_long(case: Case, results: Results) -> bool:
    """Whether the next smaller size says that this one would take too long."""
    smaller = [size for size in results.sizes(case.way) if size < case.dataset.coordinators]
    if not smaller:
        return False
    before = replace(case, dataset=replace(case.dataset, coordinators=smaller[-1]))
    took_s = results.median(before, wall_s)
    return took_s is not None and took_s * (case.dataset.coordinators / smaller[-1]) ** 2 > PATIENCE_S
