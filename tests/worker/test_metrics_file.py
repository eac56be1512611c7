"""The command's --metrics-file: runs add up, also side by side, and nobody else's file is touched."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from cleanup_tasks.reporting import metrics_file
from cleanup_tasks.reporting.metrics import Metrics
from cleanup_tasks.reporting.metrics_file import MetricsFile
from cleanup_tasks.servers.client import CLIENT_NAME
from demo.dataset import ACTIVE_AGE_MS, STALE_AGE_MS, write_coordinators
from demo.servers import Server, wait_until
from tests.support.command import run_command
from tests.support.scraping import changed, read
from tests.support.sweeping import write_heartbeat


def some_coordinators(client: Redis) -> None:
    """Four stale, two active, one unreadable: 24 keys to go."""
    write_coordinators(client, [b"stale-%d" % n for n in range(4)], STALE_AGE_MS)
    write_coordinators(client, [b"active-%d" % n for n in range(2)], ACTIVE_AGE_MS)
    write_heartbeat(client, b"odd", "unreadable")


def run(server: Server, path: Path, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    """The command with a metrics file."""
    return run_command(url or server.url, "--metrics-file", str(path), *arguments)


def test_runs_add_up(client: Redis, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cleanup.prom"
    some_coordinators(client)
    assert run(server, path).returncode == 0
    first = read(path)
    with path.open() as old:
        some_coordinators(client)
        assert run(server, path, "--fallback").returncode == 0
        # the file was replaced, not written over: a reader of the old one sees all of it
        assert 'cleanup_keys_deleted_total{target="default"} 24.0' in old.read()
    assert run(server, path, url="redis://127.0.0.1:1/0").returncode == 1
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
        'cleanup_last_sweep_unreadable_heartbeats{reason="not_json"}': 1,
    }
    for engine in ("lua", "python"):
        buckets = [value for series, value in figures.items() if f'_bucket{{engine="{engine}"' in series]
        assert buckets == sorted(buckets)
        assert buckets[-1] == 1
    # a failed run does not make the last success older or newer
    success = figures["cleanup_last_success_timestamp_seconds"]
    assert first["cleanup_last_success_timestamp_seconds"] <= success <= client.time()[0] + 1
    assert [path.name for path in tmp_path.iterdir()] == ["cleanup.prom"]


def test_a_damaged_file_costs_the_history(client: Redis, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cleanup.prom"
    path.write_text("cleanup_keys_deleted_total twelve\n")
    some_coordinators(client)
    done = run(server, path)
    assert done.returncode == 0
    assert "Metrics file can't be read, counting from zero" in done.stdout + done.stderr
    assert read(path)["cleanup_keys_deleted_total"] == 24


SOMEBODY_ELSES = {
    "text": b"root:x:0:0:root:/root:/bin/bash\n",
    "comments": b"# nothing but a comment\n",
    "metrics": b"cleanup_errors_total 1\nnode_load1 0.5\n",
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", SOMEBODY_ELSES.values(), ids=list(SOMEBODY_ELSES))
def test_somebody_elses_file_is_refused_before_the_sweep(
    client: Redis, server: Server, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    some_coordinators(client)
    before = client.dbsize()
    done = run(server, path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for '--metrics-file': {path} holds something else" in done.stderr
    assert client.dbsize() == before
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/cleanup.prom", "No such file or directory"),
        ("/dev/full", "/dev/full is no regular file"),
        ("/dev/null/cleanup.prom", "Not a directory"),
        ("/proc/cleanup.prom", "No such file or directory"),
        (".", "is no regular file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_sweep(
    client: Redis, server: Server, tmp_path: Path, name: str, message: str
) -> None:
    some_coordinators(client)
    before = client.dbsize()
    done = run(server, tmp_path / name)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--metrics-file': " in done.stderr
    assert message in done.stderr
    assert client.dbsize() == before


def test_an_empty_file_and_a_link_are_as_good_as_none(client: Redis, server: Server, tmp_path: Path) -> None:
    path, link = tmp_path / "real.prom", tmp_path / "link.prom"
    path.touch()
    link.symlink_to(path)
    some_coordinators(client)
    assert run(server, link).returncode == 0
    assert link.is_symlink()
    assert read(path)["cleanup_keys_deleted_total"] == 24


def test_what_fails_in_the_end_hides_no_metrics(client: Redis, server: Server, tmp_path: Path) -> None:
    some_coordinators(client)
    folder = tmp_path / "there"
    folder.mkdir()
    with ThreadPoolExecutor(1) as pool:
        client.client_pause(4_000, all=False)  # the sweep waits for its lock
        file = str(folder / "x.prom")
        running = pool.submit(run_command, server.url, "--json", "--metrics-file", file)
        wait_until(lambda: CLIENT_NAME in str(client.client_list()), "the file was checked")
        folder.rmdir()
        client.client_unpause()
        done = running.result()
    assert done.returncode == 2
    assert json.loads(done.stdout)["keysDeleted"] == 24
    assert "Metrics file can't be written: " in done.stderr


def test_runs_side_by_side_all_count(server: Server, client: Redis, tmp_path: Path) -> None:
    path = tmp_path / "cleanup.prom"
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: run(server, path), range(8)))
    assert {done.returncode for done in runs} == {0}
    figures = read(path)
    ended = [value for series, value in figures.items() if series.startswith("cleanup_sweeps_total")]
    assert sum(ended) == 8


def metrics_of(target: str, stale: int) -> Metrics:
    """The figures of a process that has swept a target once."""
    metrics = Metrics(CollectorRegistry())
    metrics.watch({target: 300})
    metrics.grow(target, stale_coordinators_found=stale)
    metrics.end(target, "incomplete", "lua", duration_s=1, last={"stale": stale, "orphaned": 0})
    return metrics


def test_targets_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cleanup.prom"
    for target, stale in (("a", 3), ("b", 5), ("a", 2)):
        MetricsFile(path).add(metrics_of(target, stale))
    found = {line for line in path.read_text().splitlines() if "stale" in line and line[0] != "#"}
    assert found == {
        'cleanup_coordinators_stale_total{target="a"} 5.0',
        'cleanup_coordinators_stale_total{target="b"} 5.0',
        'cleanup_last_sweep_stale_coordinators{target="a"} 2.0',
        'cleanup_last_sweep_stale_coordinators{target="b"} 5.0',
    }


def test_a_gauge_that_this_run_did_not_set_stays(tmp_path: Path) -> None:
    path = tmp_path / "cleanup.prom"
    MetricsFile(path).add(metrics_of("a", 3))
    skipped = Metrics(CollectorRegistry())
    skipped.watch({"a": 300})
    skipped.end("a", "skipped", "lua")
    MetricsFile(path).add(skipped)
    assert 'cleanup_last_sweep_stale_coordinators{target="a"} 3.0' in path.read_text()
    # a zero that was found is no value that is missing
    MetricsFile(path).add(metrics_of("a", 0))
    assert 'cleanup_last_sweep_stale_coordinators{target="a"} 0.0' in path.read_text()


def test_the_loser_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "LOCK_TIMEOUT_S", 0)
    file = MetricsFile(tmp_path / "cleanup.prom")
    with file._locked(), pytest.raises(TimeoutError, match="is locked by another process"):
        MetricsFile(tmp_path / "cleanup.prom").add(metrics_of("a", 3))
