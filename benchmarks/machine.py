"""The machine, the versions and the date that figures belong to."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from redis import Redis


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that a reader needs to judge the figures."""

    processor: str
    cores: int
    #: Processes that wanted a core in the minute before.
    load: float
    server: str
    python: str
    clients: str
    date: str

    @classmethod
    def of(cls, client: Redis) -> Self:
        """This one, with the server that was started."""
        info: dict[str, Any] = client.info("server")
        valkey = info.get("valkey_version")
        cpuinfo = Path("/proc/cpuinfo")
        models = [
            line.partition(":")[2].strip()
            for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
            if line.startswith("model name")
        ]
        return cls(
            processor=models[0] if models else platform.processor() or platform.machine(),
            cores=os.cpu_count() or 0,
            load=os.getloadavg()[0],
            server=f"Valkey {valkey}" if valkey else f"Redis {info['redis_version']}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            clients=", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "celery")),
            date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.date}; {self.cores} cores ({self.processor}), load {self.load:.1f} before the run; "
            f"{platform.system()}; {self.server}; {self.python}; {self.clients}"
        )
