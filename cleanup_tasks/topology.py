"""Where the keys are: on one server, or on a cluster's primaries. What a sweep asks of either."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks import address
from cleanup_tasks.cluster import Cluster
from cleanup_tasks.connection import Tls, client_of, primary_of
from cleanup_tasks.engines import Engine, NodeEngine
from cleanup_tasks.pace import Pace
from cleanup_tasks.single import SingleServer


class Topology(Protocol):
    """The servers that hold the keys; a context manager that closes its connections."""

    @property
    def failure(self) -> RedisError | None:
        """Why something could not be seen or done, though the other servers went on; None: all is well."""

    @property
    def pace(self) -> Pace:
        """How much to ask for at once, known when the servers have been reached."""

    def reach(self) -> None:
        """Connect; raises RedisError where that fails."""

    def is_replica(self) -> bool:
        """Whether it can only be looked at, and what it shows may lag behind its primary."""

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The keys that match, page by page, to the end; a key may come twice."""

    def read_each(self, lots: Iterable[list[bytes]]) -> Iterator[tuple[int, dict[bytes, bytes | None]]]:
        """For each lot of keys the servers' time in ms, and name -> value; None for one that is no string.

        A key that can't be read now is left out, and `failure` says why.
        """

    def existing(self, names: Iterable[bytes]) -> dict[bytes, bool]:
        """Which keys there are, of whatever type; one that can't be asked about now is left out."""

    def engine(self, make: Callable[[Redis], NodeEngine]) -> Engine:
        """An engine for batches whose keys may be anywhere here."""

    def client_for(self, key: bytes, /) -> Redis:
        """A client of the server that holds a key."""

    def __enter__(self) -> Self:
        """Nothing yet; call `reach`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""


def connect(url: str, tls: Tls | None = None) -> Topology:
    """The servers that a URL (see `address.FORMS`) names; nothing is sent before `Topology.reach`.

    Make it after a fork. Raises ValueError for a URL of no accepted form.
    """
    place = address.parse(url)
    if place.layout is address.Layout.CLUSTER:
        return Cluster(place.hosts, lambda host, port: client_of(place, host, port, tls))
    if place.layout is address.Layout.SENTINEL:
        return SingleServer(primary_of(place, tls))
    return SingleServer(client_of(place, *(place.hosts[0] if place.hosts else ("", 0)), tls))
