"""The command cleanup-blocking-coordination in a process of its own, as cron and people start it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("cleanup-blocking-coordination"))


def run_command(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it against a server to its end; a log file only where `environment` names one."""
    return subprocess.run(
        [COMMAND, *arguments],
        env={**os.environ, "COORDINATION_REDIS_URL": url, "CLEANUP_LOG_FILE": "", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def reports_where_one_is_down(ended: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The reports of all targets by name: "down" failed alone, and the status says so."""
    reports = {report["target"]: report for report in json.loads(ended.stdout)}
    assert {name: report["complete"] for name, report in reports.items()} == {
        "cluster": True,
        "down": False,
        "healthy": True,
    }
    assert "refused" in reports["down"]["failure"]
    assert ended.returncode == 1
    return reports
