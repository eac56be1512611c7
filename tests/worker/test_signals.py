"""Signals that end the command: what was done is told, the lock is free, and the status is the shell's."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from cleanup_tasks.cli.stopping import SIGNALS, Stopped, Stopping
from cleanup_tasks.cli.sweeping import ERRORS, exit_status, sweep_each
from cleanup_tasks.configuration.arguments import check_arguments, options_of
from cleanup_tasks.configuration.settings import Settings
from cleanup_tasks.rules import keys
from cleanup_tasks.servers.pipelining import HIGH_LATENCY
from cleanup_tasks.sweep.cleaner import Cleaner
from demo.dataset import KEYS_EACH, write_acceptance_data
from demo.servers import Server, wait_until
from tests.support.command import COMMAND, run_command
from tests.support.proxy import Proxy
from tests.support.sweeping import interrupted_by
from tests.support.terminal import on_terminal

ALL = 1_000 * KEYS_EACH


@contextmanager
def waiting_sweep(server: Server, client: Redis) -> Iterator[tuple[Proxy, Callable[[], None]]]:
    """A proxy behind which a sweep waits for an answer, and what waits until it does."""
    write_acceptance_data(client, 1_000, 10)
    with Proxy(server.port) as proxy:
        # The first call is a trial with nothing to do. The one that waits is sent after an answer was read.
        proxy.cut_at(b"EVALSHA", 1 + HIGH_LATENCY.in_flight + 1, hold=True)

        def until_it_waits() -> None:
            wait_until(lambda: proxy.broken, "the sweep waits for an answer")
            wait_until(lambda: client.dbsize() < ALL - KEYS_EACH, "the sweep has begun to delete")

        yield proxy, until_it_waits


@contextmanager
def started(url: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    """The command, which is gone with the block."""
    process = subprocess.Popen(
        [COMMAND],
        env={**os.environ, "COORDINATION_REDIS_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,  # type: ignore[call-overload]
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def assert_told(output: str, client: Redis, name: str) -> None:
    """The log says what was done up to there and why no more, and the lock is free."""
    (summary,) = (line for line in output.splitlines() if "cleanup_sweep" in line)
    assert "outcome=incomplete " in summary
    assert f'reason="stopped by {name}"' in summary
    (told,) = re.findall(r"Keys deleted: (\d+)", output)
    assert 0 < int(told) <= ALL - client.dbsize()
    assert not client.exists(keys.LOCK)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_frees_the_lock_and_says_what_was_done(
    server: Server, client: Redis, number: signal.Signals
) -> None:
    with waiting_sweep(server, client) as (proxy, until_it_waits), started(proxy.url) as process:
        until_it_waits()
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Cleanup interrupted" in output
    assert_told(output, client, number.name)


def test_more_signals_change_nothing(server: Server, client: Redis) -> None:
    with waiting_sweep(server, client) as (proxy, until_it_waits), started(proxy.url) as process:
        until_it_waits()
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGHUP
    assert_told(output, client, "SIGHUP")


def test_a_terminal_that_is_closed(server: Server, client: Redis, tmp_path: Path) -> None:
    log = tmp_path / "cleanup.log"
    with (
        waiting_sweep(server, client) as (proxy, until_it_waits),
        on_terminal(proxy.url, CLEANUP_LOG_FILE=str(log)) as terminal,
    ):
        until_it_waits()
        terminal.hang_up()
        assert terminal.process.wait(timeout=30) == 128 + signal.SIGHUP
    assert_told(log.read_text(), client, "SIGHUP")


def test_nohup_is_heeded(server: Server, client: Redis) -> None:
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with (
        waiting_sweep(server, client) as (proxy, until_it_waits),
        started(proxy.url, **ignoring) as process,
    ):
        until_it_waits()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert_told(output, client, "SIGTERM")


#: Has a signal come while the command is loaded.
WHILE_LOADING = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from cleanup_tasks.__main__ import main
main()
"""


def test_ctrl_c_before_the_sweep_shows_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", WHILE_LOADING], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of this process are as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_before_the_first_sweep_begins_none(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    options = options_of(Settings.read(coordination_redis_url=SecretStr(server.url)), check_arguments())
    stopping = Stopping()
    with stopping.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        ended = sweep_each([options], stopping)
    # while the command ends, another one changes nothing
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)
    assert (ended, exit_status(ended, stopping)) == ([], 128 + signal.SIGTERM)
    assert client.dbsize() == 100 * KEYS_EACH


@pytest.mark.usefixtures("handlers")
def test_a_signal_between_two_sweeps_is_not_lost(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 100, 10)
    options = options_of(Settings.read(coordination_redis_url=SecretStr(server.url)), check_arguments())
    stopping = Stopping()
    with stopping.on_signals():
        (first,) = sweep_each([options], stopping)
        os.kill(os.getpid(), signal.SIGTERM)  # the first has ended: nothing is raised
        assert sweep_each([options], stopping) == []
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            stopping.check()
    assert first.report.complete


def test_an_interrupt_counts_whatever_a_library_makes_of_it(
    server: Server, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cleaner, "run", interrupted_by(KeyboardInterrupt))
    options = options_of(Settings.read(coordination_redis_url=SecretStr(server.url)), check_arguments())
    (ended,) = sweep_each([options], Stopping())
    assert (ended.status, ended.report.failure) == (ERRORS, "KeyboardInterrupt")


def test_a_time_limit_that_passes_before_anything_was_done(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 10, 1)
    with Proxy(server.port) as proxy:
        # the answers before the first step have thousands of bytes, of which INFO has most
        proxy.drip_s = 0.001
        ended = run_command(proxy.url, "--timeout", "1s")
    assert ended.returncode == ERRORS
    assert "stopped after its time limit of 1 s; see --timeout" in ended.stdout + ended.stderr
    assert client.dbsize() == 10 * KEYS_EACH


class PassesBetween(Stopping):
    """The time limit passes once something was deleted."""

    def __init__(self, client: Redis) -> None:
        super().__init__(limit_s=3_600)
        self._client = client

    def check(self) -> None:
        """See `Stopping`."""
        if self._client.dbsize() < ALL:
            self._limit_s = 1e-9
        super().check()


def test_a_time_limit_that_passes_in_between(server: Server, client: Redis) -> None:
    write_acceptance_data(client, 1_000, 10)
    settings = Settings.read(coordination_redis_url=SecretStr(server.url))
    options = options_of(settings, check_arguments())
    stopping = PassesBetween(client)
    (ended,) = sweep_each([options], stopping)
    assert exit_status([ended], stopping) == ERRORS
    assert not ended.report.complete
    assert "stopped after its time limit" in str(ended.report.failure)
    assert not client.exists(keys.LOCK)
    assert 0 < ended.report.keys_deleted == ALL - client.dbsize()
    # the next one goes on
    (ended,) = sweep_each([options], Stopping())
    assert ended.status == 0
    assert client.dbsize() == 10 * KEYS_EACH
