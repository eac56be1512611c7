"""One server that holds everything."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import TracebackType
from typing import Any, Self, cast

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from cleanup_tasks.connection import scan_command, time_ms
from cleanup_tasks.engines import Engine, NodeEngine
from cleanup_tasks.line import Command, Line, Waiting, advance
from cleanup_tasks.pace import NEAR, pace_for

#: Values that one MGET reads.
MGET_KEYS = 100


class SingleServer:
    """One server that holds everything. What fails here fails the sweep."""

    failure: RedisError | None = None

    def __init__(self, client: Redis) -> None:
        """Use this client."""
        self._client = client
        self.pace = NEAR

    def reach(self) -> None:
        """See `Topology.reach`."""
        self.pace = pace_for(self._client)

    def is_replica(self) -> bool:
        """See `Topology.is_replica`; False where the user may not ask."""
        try:
            return cast(list[object], self._client.role())[0] in (b"slave", b"replica")
        except NoPermissionError:
            return False

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """See `Topology.scan`."""
        count = self.pace.scan_count
        asked = _ask(self._client, scan_command(b"0", pattern, count))
        while True:
            ((cursor, page),) = _answers(asked)
            if cursor != b"0":  # the next page comes while this one is worked on
                asked = _ask(self._client, scan_command(cursor, pattern, count))
            yield page
            if cursor == b"0":
                return

    def read_each(self, lots: Iterable[list[bytes]]) -> Iterator[tuple[int, dict[bytes, bytes | None]]]:
        """See `Topology.read_each`; the next lot is on its way while one is worked on."""
        waiting: tuple[list[bytes], _Asked] | None = None
        for names in lots:
            reads: list[Command] = [
                ("MGET", *names[start : start + MGET_KEYS]) for start in range(0, len(names), MGET_KEYS)
            ]
            asked = _ask(self._client, ("TIME",), *reads)
            if waiting is not None:
                yield _values(*waiting)
            waiting = names, asked
        if waiting is not None:
            yield _values(*waiting)

    def existing(self, names: Iterable[bytes]) -> dict[bytes, bool]:
        """See `Topology.existing`."""
        return {name: bool(self._client.exists(name)) for name in names}

    def engine(self, make: Callable[[Redis], NodeEngine]) -> Engine:
        """See `Topology.engine`."""
        return make(self._client)

    def client_for(self, _key: bytes) -> Redis:
        """See `Topology.client_for`."""
        return self._client

    def __enter__(self) -> Self:
        """See `Topology`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Topology`."""
        self._client.close()


#: What was asked, and is answered in the second step.
_Asked = Waiting[list[Any]]


def _ask(client: Redis, *commands: Command) -> _Asked:
    """Send commands on a connection of their own.

    One that was held from question to question might idle for longer than the server allows.
    """

    def ask() -> _Asked:
        with Line(client) as line:
            line.send(*commands)
            yield
            return [line.receive() for _command in commands]

    asked = ask()
    advance(asked)
    return asked


def _answers(asked: _Asked) -> list[Any]:
    answers = advance(asked)
    assert answers is not None
    return answers


def _values(names: list[bytes], asked: _Asked) -> tuple[int, dict[bytes, bytes | None]]:
    clock, *chunks = _answers(asked)
    return time_ms(clock), dict(zip(names, chain.from_iterable(chunks), strict=True))
