"""make bench: how long a sweep takes, and what it asks of the server; medians of several rounds."""

import statistics
import time

from redis import Redis
from rich.console import Console
from rich.table import Table

from cleanup_tasks.options import Options
from cleanup_tasks.run import Run
from cleanup_tasks.settings import Settings, load_settings
from demo.dataset import write_acceptance_data
from demo.servers import running_server

ROUNDS = 7


def floor(client: Redis) -> None:
    """What no sweep can beat: one pass over the keyspace and an UNLINK of the doomed, nothing checked."""
    doomed = [key for key in client.scan_iter(count=5_000) if b"test-coordinator" in key]
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, len(doomed), 1_000):
            pipe.unlink(*doomed[start : start + 1_000])
        pipe.execute()


def sweep(settings: Settings, fallback_reason: str | None) -> None:
    """One real sweep, with connection, lock and report."""
    Run(settings, Options(), fallback_reason=fallback_reason).sweep()


def measure(client: Redis, settings: Settings, name: str, active: int) -> tuple[float, int, int]:
    """Wall time in ms, the longest command in µs, and SCAN calls of one way on fresh data."""
    client.flushall()
    write_acceptance_data(client, 10_000, active)
    client.config_resetstat()
    client.slowlog_reset()
    started = time.perf_counter()
    if name == "floor":
        floor(client)
    else:
        sweep(settings, None if name == "lua" else "benchmark")
    elapsed_ms = (time.perf_counter() - started) * 1000
    longest = max((entry["duration"] for entry in client.slowlog_get(128)), default=0)
    return elapsed_ms, longest, client.info("commandstats")["cmdstat_scan"]["calls"]


def main() -> None:
    """Measure side by side, the ways in turn, and print a table."""
    table = Table(title=f"10,000 coordinators, 60,000 keys; median of {ROUNDS} rounds (lowest to highest)")
    for column in ("way", "active", "wall ms", "× floor", "longest command ms", "SCAN calls"):
        table.add_column(column, justify="right")
    with running_server("--slowlog-log-slower-than", "500") as server, server.client() as client:
        settings = load_settings(coordination_redis_url=server.url, cleanup_log_file="")
        for active, ways in ((100, ("floor", "lua", "python")), (10_000, ("lua", "python"))):
            rows: dict[str, list[tuple[float, int, int]]] = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way in ways:
                    rows[way].append(measure(client, settings, way, active))
            for way, row in rows.items():
                wall = sorted(elapsed for elapsed, _, _ in row)
                ratio = statistics.median(wall) / statistics.median(e for e, _, _ in rows[ways[0]])
                table.add_row(
                    way,
                    f"{active:,}",
                    f"{statistics.median(wall):.0f} ({wall[0]:.0f} to {wall[-1]:.0f})",
                    f"{ratio:.2f}" if active == 100 else "",
                    f"{max(longest for _, longest, _ in row) / 1000:.1f}",
                    str(row[-1][2]),
                )
    Console().print(table)


if __name__ == "__main__":
    main()
