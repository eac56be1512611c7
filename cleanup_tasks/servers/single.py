"""One server that holds everything."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from redis import Redis
from redis.exceptions import (
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.sentinel import SentinelConnectionPool

from cleanup_tasks.servers.client import server_time_ms, time_ms
from cleanup_tasks.servers.errors import WrongServer
from cleanup_tasks.servers.pages import next_count, scan_command
from cleanup_tasks.servers.pipelining import (
    LOW_LATENCY,
    Context,
    Request,
    answered,
    limits_for,
    or_raise,
)
from cleanup_tasks.servers.restarts import REPLACED, Info, check_still_primaries
from cleanup_tasks.servers.values import KeyCommand, first_reads, read_on

#: Two keys of the families that we may read; where slots lie on several servers, no command takes both.
_IN_TWO_SLOTS = ("blocking:heartbeat:1", "blocking:heartbeat:2")
_SPREAD = (ClusterCrossSlotError, ClusterDownError, MovedError)


class SingleServer(AbstractContextManager["SingleServer"]):
    """One server that holds everything. A `Topology`; what fails here fails the sweep."""

    failure: RedisError | None = None

    def __init__(self, client: Redis) -> None:
        """Use this client."""
        self.client = client
        self.limits = LOW_LATENCY
        self._role = b""
        self._infos: list[Info] = []
        #: Where the sentinels said that the primary is, if there are any.
        self._address: tuple[str, int] | None = None

    def connect(self) -> None:
        """See `Topology.connect`; raises WrongServer for a sentinel and for a node of a cluster.

        A node would show its own part of the keys, as if that were all.
        """
        hello, two_slots = Request(self.client, [("HELLO",), ("EXISTS", *_IN_TWO_SLOTS)]).answers()
        about = {} if isinstance(hello, ResponseError) else dict(zip(hello[::2], hello[1::2], strict=True))
        if about.get(b"mode") == b"sentinel":
            raise WrongServer("this is a sentinel: use redis+sentinel://host:port/service")
        if about.get(b"mode") == b"cluster" or isinstance(two_slots, _SPREAD):
            raise WrongServer("this is one node of a cluster: use redis+cluster://host:port")
        self._role = about.get(b"role", b"")
        self._address = getattr(self.client.connection_pool, "master_address", None)
        self.limits = limits_for(self.client)

    def is_replica(self) -> bool:
        """See `Topology.is_replica`; False where the server doesn't say."""
        return self._role in (b"slave", b"replica")

    def check_still_primary(self) -> None:
        """See `Topology.check_still_primary`; one that was cut off from the others doesn't know it yet."""
        pool = self.client.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            address = pool.sentinel_manager.discover_master(pool.service_name)
            if address != self._address:
                raise ReadOnlyError(REPLACED)
        if self._infos:
            check_still_primaries(self._infos, [self.client.info()])

    def size(self) -> int:
        """See `Topology.size`."""
        try:
            return self.client.dbsize()
        except RedisError:
            return 0

    def infos(self) -> list[Info]:
        """See `Topology.infos`."""
        self._infos = self._infos or [self.client.info()]
        return self._infos

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """See `Topology.scan`."""
        count = most = self.limits.scan_count
        request = Request(self.client, [scan_command(b"0", pattern, count)])
        try:
            while True:
                ((cursor, page),) = or_raise(request.answers())
                count = next_count(count, page, most)
                if cursor != b"0":  # the next page comes while this one is worked on
                    request = Request(self.client, [scan_command(cursor, pattern, count)])
                yield page
                if cursor == b"0":
                    return
        finally:
            request.close()

    def read(
        self, lots: Iterable[tuple[Context, list[bytes]]]
    ) -> Iterator[tuple[Context, int, dict[bytes, bytes | None]]]:
        """See `Topology.read`; the next lot is on its way while one is worked on."""
        requests = (
            ((context, names), Request(self.client, [("TIME",), *first_reads(names)]))
            for context, names in lots
        )
        for (context, names), (clock, *values) in answered(requests):
            read_on(names, values, self._ask)
            or_raise([clock, *values])
            yield context, time_ms(clock), dict(zip(names, values, strict=True))

    def now_ms(self) -> int:
        """See `Topology.now_ms`."""
        return server_time_ms(self.client)

    def existing(self, names: Iterable[bytes]) -> set[bytes]:
        """See `Topology.existing`."""
        names = list(names)
        if not names:
            return set()
        answers = or_raise(self._ask([("EXISTS", name) for name in names]))
        return {name for name, exists in zip(names, answers, strict=True) if exists}

    def _ask(self, commands: list[KeyCommand]) -> list[Any]:
        return Request(self.client, commands).answers()

    def client_for(self, _key: bytes) -> Redis:
        """See `Topology.client_for`."""
        return self.client

    def __exit__(self, *_: object) -> None:
        """See `Topology`."""
        self.client.close()
