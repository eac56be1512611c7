"""The services of docker-compose.yml as processes of this machine, there being no Docker here."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from demo.servers import free_port, stop, wait_until
from demo.stack import ROOT


def resolved(environment: Mapping[str, str], folder: Path, *options: str) -> dict[str, Any]:
    """What docker-compose makes of the file with these values in .env."""
    dotenv = folder / "dotenv"
    dotenv.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    done = subprocess.run(
        ["docker-compose", "--env-file", str(dotenv), *options, "config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    # In its output a dollar sign is doubled still.
    config: dict[str, Any] = yaml.safe_load(done.stdout.replace("$$", "$"))
    return config


def seconds(duration: str) -> int:
    """A duration such as 1m30s in seconds."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


@dataclass
class Container:
    """A service as a process: its command and environment, with addresses, ports and paths of its own."""

    name: str
    service: dict[str, Any]
    #: What stands in the file -> what it is here.
    places: dict[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def here(self, text: str) -> str:
        """A text of the file, for this machine."""
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    @property
    def environment(self) -> dict[str, str]:
        """The service's environment, and what a container has besides."""
        scripts = Path(sys.executable).parent
        given = {name: self.here(value) for name, value in self.service.get("environment", {}).items()}
        return {
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOSTNAME": socket.gethostname(),
            **given,
        }

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def start(self, *more: str) -> None:
        """Run the command; `more` are arguments that the image would not need."""
        command = [self.here(argument) for argument in self.service["command"]]
        with (self.folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *more],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def healthy(self) -> bool:
        """Whether the health check passes now, within its own time."""
        check = self.service["healthcheck"]
        kind, *command = [self.here(word) for word in check["test"]]
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self.environment,
                capture_output=True,
                timeout=seconds(check["timeout"]),
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            stop(self.process)


#: The services that are servers of Redis.
SERVERS = ("redis", "redis-us", "broker")


class Compose:
    """All services that are always there; a context manager that leaves none behind."""

    def __init__(self, environment: Mapping[str, str], folder: Path, *files: str) -> None:
        """Nothing runs yet; `files` are laid over docker-compose.yml."""
        options = [word for file in ("docker-compose.yml", *files) for word in ("--file", file)]
        self.config = resolved(environment, folder, *options)
        self.folder = folder
        self._ports = {name: free_port() for name in (*SERVERS, "flower", "metrics")}
        shared = {f"{name}:6379": f"127.0.0.1:{self._ports[name]}" for name in SERVERS}
        shared |= {"9808": str(self._ports["metrics"]), "5555": str(self._ports["flower"])}
        shared |= {"/tmp/": f"{folder}/", "/data/": f"{folder}/"}  # noqa: S108
        shared |= {"/etc/cleanup/": f"{ROOT}/deploy/targets/"}
        worker = self.config["services"]["worker"]["environment"]
        if worker["REDIS_HOST"] == "redis":
            worker |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(self._ports["redis"])}
        self.containers = {
            name: Container(name, service, shared, folder)
            for name, service in self.config["services"].items()
            if "profiles" not in service
        }

    def __getitem__(self, name: str) -> Container:
        """A service by its name."""
        return self.containers[name]

    def port(self, name: str) -> int:
        """Where a server, flower or metrics listen."""
        return self._ports[name]

    def add_replica(self, name: str, mark: str) -> str:
        """Start one of several containers of a service, with a host name and a port of its own."""
        original = self[name]
        places = original.places | {"@%h": f"@%h{mark}", "@$HOSTNAME": f"@${{HOSTNAME}}{mark}"}
        places["9808"] = str(free_port())
        replica = Container(f"{name}{mark}", original.service, places, self.folder)
        self.containers[replica.name] = replica
        replica.start()
        return replica.name

    def start_server(self, name: str) -> None:
        """Start redis or broker, on its port and in its folder; wait until it is healthy."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        more = ("--port", str(self._ports[name]), "--bind", "127.0.0.1", "--dir", str(folder))
        container = self[name]
        container.start(*more)
        test = container.service["healthcheck"]["test"]
        if "-p" not in test:
            test[2:2] = ["-p", str(self._ports[name])]
        wait_until(container.healthy, f"{name} is healthy")

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything, the servers last."""
        for name in sorted(self.containers, key=SERVERS.__contains__):
            self[name].stop()
