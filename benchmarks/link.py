"""A link with latency: every answer arrives a while after the server sent it."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from redis import Redis
from redis.exceptions import ConnectionError

from benchmarks.process import running
from demo.servers import free_port, wait_until


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(262_144):
        if latency_s:
            loop.call_later(latency_s, writer.write, data)
        else:
            writer.write(data)
    loop.call_later(latency_s, writer.close)


async def _serve(port: int, target: int, latency_s: float) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_forward(reader, their_writer, 0), _forward(their_reader, writer, latency_s))

    server = await asyncio.start_server(meet, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def _run(port: int, target: int, latency_s: float) -> None:
    asyncio.run(_serve(port, target, latency_s))


@contextlib.contextmanager
def slow_link(target: int, latency_s: float) -> Iterator[str]:
    """The URL of a port that leads to `target`, with that much added to every round trip."""
    port = free_port()
    with running(_run, port, target, latency_s), Redis(port=port) as client:

        def answers() -> bool:
            with contextlib.suppress(ConnectionError):
                return bool(client.ping())
            return False

        wait_until(answers, "the slow link answers")
        yield f"redis://127.0.0.1:{port}"


def round_trip_s(url: str) -> float:
    """Seconds that a PING takes; the median of a hundred."""
    with Redis.from_url(url) as client:
        took = []
        for _ in range(100):
            started = time.perf_counter()
            client.ping()
            took.append(time.perf_counter() - started)
    return sorted(took)[50]
