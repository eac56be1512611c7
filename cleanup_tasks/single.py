"""One server that holds everything."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, cast

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from cleanup_tasks.connection import scan_page, server_time_ms, time_ms
from cleanup_tasks.engines import Engine, NodeEngine

#: Values that one MGET reads.
READ_KEYS = 100


class SingleServer:
    """One server that holds everything. What fails here fails the sweep."""

    failure: RedisError | None = None

    def __init__(self, client: Redis) -> None:
        """Use this client."""
        self._client = client

    def reach(self) -> None:
        """See `Topology.reach`."""
        server_time_ms(self._client)

    def is_replica(self) -> bool:
        """See `Topology.is_replica`; False where the user may not ask."""
        try:
            return cast(list[object], self._client.role())[0] in (b"slave", b"replica")
        except NoPermissionError:
            return False

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """See `Topology.scan`."""
        cursor = 0
        while True:
            cursor, page = scan_page(self._client, cursor, pattern)
            yield page
            if cursor == 0:
                return

    def read(self, names: Iterable[bytes]) -> tuple[int, dict[bytes, bytes | None]]:
        """See `Topology.read`."""
        names = list(names)
        if not names:
            return 0, {}
        values: list[bytes | None] = []
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            for start in range(0, len(names), READ_KEYS):
                pipe.mget(names[start : start + READ_KEYS])
            clock, *chunks = pipe.execute()
        for chunk in chunks:
            values += chunk
        return time_ms(clock), dict(zip(names, values, strict=True))

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
