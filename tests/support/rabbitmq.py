"""A RabbitMQ that the tests start, by Debian's package rabbitmq-server; another that runs is not touched."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kombu import Connection

from demo.servers import free_port, stop, wait_until

#: Itself and not /usr/sbin's, which runs it as another user, in the package's folders.
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class RabbitMQ:
    """A broker in a folder, with what it needs of Erlang; `url` is where it listens."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet."""
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._output = folder / "output"
        plugins = folder / "plugins"
        plugins.write_text("[].")
        theirs = ("RABBITMQ_", "ERL_")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(theirs)},
            "HOME": str(folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"tests-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Until it takes connections; raises RuntimeError with its output where it doesn't start."""
        # Started by us, Erlang's register of nodes can be stopped by us; the broker would leave it behind.
        register = ["epmd", "-port", self._environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
        with self._output.open("wb") as output:
            for command in (register, [SERVER]):
                self._processes.append(
                    subprocess.Popen(
                        command,
                        env=self._environment,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        wait_until(self._answers, "RabbitMQ answers", 120)

    def _answers(self) -> bool:
        if self._processes[-1].poll() is not None:
            raise RuntimeError(f"RabbitMQ has ended: {self._output.read_text(errors='replace')}")
        with contextlib.suppress(OSError), Connection(self.url, connect_timeout=5) as connection:
            connection.connect()
            return True
        return False

    def stop(self) -> None:
        """End it; what is durable is there again after the next start."""
        processes = [self._processes.pop() for _ in list(self._processes)]
        for process in processes:
            stop(process, seconds=60)
            # the broker is the child of a shell script
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def running_rabbitmq() -> Iterator[RabbitMQ]:
    """A broker for the length of a with block, with its own temporary folder."""
    with tempfile.TemporaryDirectory(prefix="cleanup-rabbitmq-") as folder:
        rabbitmq = RabbitMQ(Path(folder))
        try:
            rabbitmq.start()
            yield rabbitmq
        finally:
            rabbitmq.stop()
