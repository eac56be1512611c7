"""A link with latency: every answer arrives a while after the server sent it."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.plan import ROOT
from demo.servers import free_port, stop


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float) -> None:
    later = asyncio.get_running_loop().call_later
    while data := await reader.read(262_144):
        later(latency_s, writer.write, data)
    later(latency_s, writer.close)


async def _serve(port: str, target: str, latency_s: str) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_them = await asyncio.open_connection("127.0.0.1", int(target))
        await asyncio.gather(_forward(reader, to_them, 0), _forward(theirs, writer, float(latency_s)))

    async with await asyncio.start_server(meet, "127.0.0.1", int(port)) as server:
        print("ready", flush=True)
        await server.serve_forever()


@contextlib.contextmanager
def slow_link(port: int, latency_s: float = 0.001) -> Iterator[str]:
    """The URL of another port that leads to this one, with that much added to every round trip."""
    ours = free_port()
    command = [sys.executable, "-m", "benchmarks.link", str(ours), str(port), str(latency_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield f"redis://127.0.0.1:{ours}"
        finally:
            stop(process)


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
