"""The command cleanup-blocking-coordination in a process of its own, as cron and people start it."""

import os
import subprocess
import sys
from pathlib import Path

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
