"""The metrics of a real worker, whatever becomes of its children, and of the command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from cleanup_tasks import keys
from cleanup_tasks.metrics import FIGURES, OUTCOMES
from cleanup_tasks.pace import NEAR
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.fleet import fleet
from demo.servers import Server, wait_until
from demo.stack import ROOT
from tests.scraping import changed, read, scrape
from tests.sweeping import write_heartbeat

POOLS = {
    "prefork": ("--pool", "prefork"),
    "prefork, a new child for each task": ("--pool", "prefork", "--max-tasks-per-child", "1"),
    "solo": ("--pool", "solo"),
    "threads": ("--pool", "threads"),
}


def some_coordinators(client: Redis) -> None:
    """Four stale, two active, one unreadable: 24 keys to go."""
    write_coordinators(client, [b"stale-%d" % n for n in range(4)], STALE_AGE_MS)
    write_coordinators(client, [b"active-%d" % n for n in range(2)], ACTIVE_AGE_MS)
    write_heartbeat(client, b"odd", "unreadable")


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The pid of a prefork worker's one child."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def test_every_series_is_there_at_zero(server: Server, broker: Server, tmp_path: Path) -> None:
    with fleet(server, broker, tmp_path) as running:
        running.stack.start_worker()
        figures = scrape(running.metrics_port)
    assert figures.pop("cleanup_interval_seconds") == 300
    assert set(figures.values()) == {0}
    counted = {series for series in figures if "_bucket{" not in series and "_duration_" not in series}
    reasons = ("requested", "no_permission", "unknown_command", "script_missing", "script_error", "other")
    assert counted == {
        *(f'cleanup_sweeps_total{{engine="{e}",outcome="{o}"}}' for e in ("lua", "python") for o in OUTCOMES),
        *(f"{name}_total" for name, _ in FIGURES.values()),
        *(f'cleanup_fallbacks_total{{reason="{reason}"}}' for reason in reasons),
        "cleanup_last_success_timestamp_seconds",
        "cleanup_last_sweep_stale_coordinators",
        "cleanup_last_sweep_orphaned_coordinators",
    }


@pytest.mark.parametrize("pool", list(POOLS))
def test_figures_of_every_pool(
    pool: str, client: Redis, server: Server, broker: Server, tmp_path: Path
) -> None:
    with fleet(server, broker, tmp_path) as running:
        running.stack.start_worker("worker", *POOLS[pool])
        # Given an ordinary sweep, a dry run, a requested fallback and one that finds the lock held
        some_coordinators(client)
        assert running.run(dry_run=True)["keysDeleted"] == 24
        assert running.run()["keysDeleted"] == 24
        some_coordinators(client)
        client.set("blocking:signal:without-heartbeat", "1")
        assert running.run("cleanup_fallback")["keysDeleted"] == 24
        client.set(keys.LOCK, "somebody", px=60_000)
        assert running.run()["skipped"]
        # Then the endpoint has exactly their sum
        expected = {
            'cleanup_sweeps_total{engine="lua",outcome="dry_run"}': 1,
            'cleanup_sweeps_total{engine="lua",outcome="success"}': 1,
            'cleanup_sweeps_total{engine="python",outcome="success"}': 1,
            'cleanup_sweeps_total{engine="lua",outcome="skipped"}': 1,
            'cleanup_sweep_duration_seconds_count{engine="lua"}': 2,
            'cleanup_sweep_duration_seconds_count{engine="python"}': 1,
            'cleanup_fallbacks_total{reason="requested"}': 1,
            "cleanup_coordinators_checked_total": 14,
            "cleanup_coordinators_stale_total": 8,
            "cleanup_coordinators_reaped_total": 8,
            "cleanup_coordinators_unreadable_total": 2,
            "cleanup_keys_deleted_total": 48,
            "cleanup_last_sweep_stale_coordinators": 4,
            "cleanup_last_sweep_orphaned_coordinators": 1,
        }
        wait_until(lambda: changed(scrape(running.metrics_port)) == expected, "the counts have arrived")
        figures = scrape(running.metrics_port)
        assert abs(figures["cleanup_last_success_timestamp_seconds"] - client.time()[0]) < 60
        # And the log says the same of each, in one line
        summaries = [line for line in running.stack.log("worker").splitlines() if "cleanup_sweep " in line]
        assert [line.split("outcome=")[1].split()[0] for line in summaries] == [
            "dry_run",
            "success",
            "success",
            "skipped",
        ]


def test_a_child_killed_in_mid_sweep(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    stale = 20_000
    write_coordinators(client, [b"stale-%d" % n for n in range(stale)], STALE_AGE_MS)

    def deleted() -> int:
        return int(6 * stale - (client.dbsize() - client.exists(keys.LOCK)))

    def unknown() -> float:
        return deleted() - scrape(running.metrics_port)["cleanup_keys_deleted_total"]

    with fleet(server, broker, tmp_path) as running:
        worker = running.stack.start_worker()
        child = child_of(worker)
        # When the sweep has begun to delete, the server is made to hold its next step back,
        result = running.send()
        wait_until(lambda: deleted() > 0, "something is deleted")
        client.client_pause(60_000, all=False)
        # and its child is killed
        # (which of the batches under way it has done by then is its own affair)
        wait_until(lambda: unknown() < NEAR.batches * NEAR.batch_keys, "what is deleted is counted")
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")
        with pytest.raises(Exception, match="SIGKILL"):
            result.get(timeout=60)
        client.client_unpause()
        # Then what it did is counted, and that it was lost
        gone = deleted()
        assert 0 < gone < 6 * stale
        lost = {'cleanup_sweeps_total{engine="lua",outcome="lost"}': 1.0}
        wait_until(lambda: lost.items() <= scrape(running.metrics_port).items(), "the loss is counted")
        figures = changed(scrape(running.metrics_port))
        known = figures.pop("cleanup_keys_deleted_total")
        assert gone - NEAR.batches * NEAR.batch_keys < known <= gone
        assert figures.pop("cleanup_coordinators_reaped_total") == known / 6
        assert figures == lost | {
            "cleanup_coordinators_checked_total": stale,
            "cleanup_coordinators_stale_total": stale,
        }
        # And its successor's sweep adds the rest
        client.delete(keys.LOCK)
        assert running.run()["keysDeleted"] == 6 * stale - gone
        assert child_of(worker) != child
        wait_until(lambda: unknown() == gone - known, "the rest is counted")


def test_an_attempt_that_was_cut_off(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    """The report speaks of all attempts together; the metrics count the work of each once."""
    stale = 20_000
    write_coordinators(client, [b"stale-%d" % n for n in range(stale)], STALE_AGE_MS)
    with fleet(server, broker, tmp_path) as running:
        running.stack.start_worker()
        result = running.send()
        wait_until(lambda: client.dbsize() < 6 * stale, "something is deleted")
        client.client_pause(60_000, all=False)
        retried = 'cleanup_sweeps_total{engine="lua",outcome="retried"}'
        wait_until(lambda: scrape(running.metrics_port)[retried] == 1, "the first attempt has timed out")
        left = client.dbsize() - client.exists(keys.LOCK)
        assert 0 < left < 6 * stale
        client.client_unpause()
        metrics = result.get(timeout=60)
        assert (metrics["keysDeleted"], metrics["cleanupErrors"]) == (6 * stale, NEAR.batches)
        figures = {
            retried: 1,
            'cleanup_sweeps_total{engine="lua",outcome="incomplete"}': 1,
            'cleanup_sweep_duration_seconds_count{engine="lua"}': 1,
            "cleanup_coordinators_checked_total": stale + left / 6,
            "cleanup_coordinators_stale_total": stale + left / 6,
            "cleanup_coordinators_reaped_total": stale,
            "cleanup_keys_deleted_total": 6 * stale,
            "cleanup_errors_total": NEAR.batches,
            "cleanup_last_sweep_stale_coordinators": stale,
        }
        wait_until(lambda: changed(scrape(running.metrics_port)) == figures, "every key is counted once")


def test_out_of_time(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    with fleet(server, broker, tmp_path) as running:
        child = child_of(running.stack.start_worker())
        client.client_pause(60_000, all=False)  # the sweep waits for its lock
        result = running.send(seconds=4)
        wait_until(lambda: result.state == "STARTED", "the sweep has begun")
        os.kill(child, signal.SIGSTOP)  # deaf to the soft limit
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            result.get(timeout=60)
        wait_until(lambda: not Path(f"/proc/{child}").exists(), "the child is gone")
        client.client_unpause()
        running.run(dry_run=True)
        wait_until(
            lambda: (
                changed(scrape(running.metrics_port))
                == {
                    'cleanup_sweeps_total{engine="lua",outcome="lost"}': 1,
                    'cleanup_sweeps_total{engine="lua",outcome="dry_run"}': 1,
                    'cleanup_sweep_duration_seconds_count{engine="lua"}': 1,
                }
            ),
            "one loss and one dry run are counted",
        )


def test_refused_retried_failed(client: Redis, server: Server, broker: Server, tmp_path: Path) -> None:
    client.acl_setuser("noscript", enabled=True, passwords=["+p"], keys=["*"], commands=["+@all", "-evalsha"])
    url = {"COORDINATION_REDIS_URL": f"redis://noscript:p@127.0.0.1:{server.port}/0"}
    try:
        with fleet(server, broker, tmp_path, url) as running:
            running.stack.start_worker()
            some_coordinators(client)
            # Scripting is forbidden: the fallback has the work, and the reason
            assert running.run()["keysDeleted"] == 24
            # The server is a replica for a while: tried again
            client.replicaof("127.0.0.1", 1)
            result = running.send()
            retried = 'cleanup_sweeps_total{engine="lua",outcome="retried"}'
            wait_until(lambda: scrape(running.metrics_port)[retried] == 1, "the first attempt has failed")
            client.replicaof("NO", "ONE")
            assert result.get(timeout=60)["complete"]
            # The password has changed: given up at once
            client.acl_setuser("noscript", enabled=True, passwords=["-p", "+q"])
            with pytest.raises(Exception, match="invalid username-password"):
                running.run()
            expected = {
                'cleanup_sweeps_total{engine="lua",outcome="refused"}': 1,
                'cleanup_sweeps_total{engine="python",outcome="success"}': 1,
                retried: 1,
                'cleanup_sweeps_total{engine="lua",outcome="success"}': 1,
                'cleanup_sweeps_total{engine="lua",outcome="failed"}': 1,
                'cleanup_fallbacks_total{reason="no_permission"}': 1,
            }
            counts = ("cleanup_sweeps_total", "cleanup_fallbacks_total")

            def outcomes() -> dict[str, float]:
                figures = changed(scrape(running.metrics_port))
                return {series: value for series, value in figures.items() if series.startswith(counts)}

            wait_until(lambda: outcomes() == expected, "every attempt is counted once")
            assert scrape(running.metrics_port)["cleanup_keys_deleted_total"] == 24
    finally:
        client.replicaof("NO", "ONE")
        client.acl_deluser("noscript")


def test_a_taken_port_stops_the_worker(server: Server, broker: Server, tmp_path: Path) -> None:
    with fleet(server, broker, tmp_path) as running:
        running.stack.start_worker("first")
        second = running.stack.start("second", "worker", "--hostname", "second@%h")
        assert second.wait(timeout=60) == 1
        log = running.stack.log("second")
        assert f"CLEANUP_METRICS_PORT: can't listen on 127.0.0.1:{running.metrics_port}" in log


class TestMetricsFile:
    """The command's --metrics-file."""

    @staticmethod
    def run(server: Server, path: Path, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
        """The command in a process of its own, as cron starts it."""
        return subprocess.run(
            [sys.executable, "-m", "cleanup_tasks", "--metrics-file", str(path), *arguments],
            env=os.environ | {"COORDINATION_REDIS_URL": url or f"{server.url}/0"},
            cwd=ROOT,
            text=True,
            capture_output=True,
        )

    def test_runs_add_up(self, client: Redis, server: Server, tmp_path: Path) -> None:
        path = tmp_path / "cleanup.prom"
        some_coordinators(client)
        assert self.run(server, path).returncode == 0
        first = read(path)
        with path.open() as old:
            some_coordinators(client)
            assert self.run(server, path, "--fallback").returncode == 0
            # the file was replaced, not written over: a reader of the old one sees all of it
            assert "cleanup_keys_deleted_total 24.0" in old.read()
        assert self.run(server, path, url="redis://127.0.0.1:1/0").returncode == 1
        figures = read(path)
        assert set(figures) == set(first)
        assert changed(figures) == {
            'cleanup_sweeps_total{engine="lua",outcome="success"}': 1,
            'cleanup_sweeps_total{engine="python",outcome="success"}': 1,
            'cleanup_sweeps_total{engine="lua",outcome="failed"}': 1,
            'cleanup_sweep_duration_seconds_count{engine="lua"}': 1,
            'cleanup_sweep_duration_seconds_count{engine="python"}': 1,
            'cleanup_fallbacks_total{reason="requested"}': 1,
            "cleanup_coordinators_checked_total": 14,
            "cleanup_coordinators_stale_total": 8,
            "cleanup_coordinators_reaped_total": 8,
            "cleanup_coordinators_unreadable_total": 2,
            "cleanup_keys_deleted_total": 48,
            "cleanup_last_sweep_stale_coordinators": 4,
        }
        for engine in ("lua", "python"):
            buckets = [value for series, value in figures.items() if f'_bucket{{engine="{engine}"' in series]
            assert buckets == sorted(buckets)
            assert buckets[-1] == 1
        # a failed run does not make the last success older or newer
        success = figures["cleanup_last_success_timestamp_seconds"]
        assert first["cleanup_last_success_timestamp_seconds"] <= success <= client.time()[0] + 1
        assert [path.name for path in tmp_path.iterdir()] == ["cleanup.prom"]

    def test_a_damaged_file_costs_the_history(self, client: Redis, server: Server, tmp_path: Path) -> None:
        path = tmp_path / "cleanup.prom"
        path.write_text("cleanup_keys_deleted_total twelve\n")
        some_coordinators(client)
        done = self.run(server, path)
        assert done.returncode == 0
        assert "Metrics file can't be read, counting from zero" in done.stdout + done.stderr
        assert read(path)["cleanup_keys_deleted_total"] == 24

    def test_a_file_that_cannot_be_written(self, client: Redis, server: Server, tmp_path: Path) -> None:
        some_coordinators(client)
        done = self.run(server, tmp_path / "missing" / "cleanup.prom")
        assert done.returncode == 2
        assert "Metrics file can't be written" in done.stdout
        assert client.dbsize() == 13  # the sweep itself was done
