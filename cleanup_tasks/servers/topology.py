"""Where the keys are: on one server, or on a cluster's primaries. What a sweep asks of either."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.servers.client import client_of, primary_of
from cleanup_tasks.servers.cluster import Cluster
from cleanup_tasks.servers.pipelining import Context, Limits
from cleanup_tasks.servers.restarts import Info
from cleanup_tasks.servers.single import SingleServer
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.servers.url import Address, Layout


class Topology(AbstractContextManager["Topology"], Protocol):
    """The servers that hold the keys; a context manager that closes its connections."""

    @property
    def failure(self) -> RedisError | None:
        """Why something could not be seen or done, though the other servers went on; None: all is well."""

    @property
    def limits(self) -> Limits:
        """How much to ask for at once, known after `connect`."""

    def connect(self) -> None:
        """Connect; raises RedisError where that fails."""

    def is_replica(self) -> bool:
        """Whether it can only be looked at, and what it shows may lag behind its primary."""

    def check_still_primary(self) -> None:
        """Raise ReadOnlyError where another server has taken over meanwhile, as far as that can be told.

        Where INFO was not refused before, what it says now is compared with that.
        """

    def size(self) -> int:
        """How many keys there are, about; 0 where that can't be told."""

    def infos(self) -> list[Info]:
        """What each primary said about itself when this was called first; those that are lost are left out.

        Raises ResponseError where one refuses to.
        """

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """The keys that match, page by page, to the end; a key may come twice."""

    def read(
        self, lots: Iterable[tuple[Context, list[bytes]]]
    ) -> Iterator[tuple[Context, int, dict[bytes, bytes | None]]]:
        """For each lot of keys what came with it, the servers' time in ms, and name -> value.

        The value is empty for a key that is missing, None for one that is no string, and cut off where it is
        longer than `VALUE_BYTES`. A key that can't be read now is left out, and `failure` says why.
        """

    def now_ms(self) -> int:
        """The servers' time in ms since the epoch, by the clock that is furthest behind."""

    def existing(self, names: Iterable[bytes]) -> set[bytes]:
        """Those of the keys that exist, of whatever type; one that can't be asked about now is among them."""

    def client_for(self, key: bytes, /) -> Redis:
        """A client of the server that holds a key."""


def servers_at(address: Address, tls: Tls | None = None) -> Topology:
    """The servers that an address names; nothing is sent before `Topology.connect`. Make it after a fork."""
    files = tls or Tls()
    match address.layout:
        case Layout.CLUSTER:
            return Cluster(address.hosts, lambda host, port: client_of(address, host, port, files))
        case Layout.SENTINEL:
            return SingleServer(primary_of(address, files))
        case Layout.SERVER:
            host, port = address.hosts[0] if address.hosts else ("", 0)
            return SingleServer(client_of(address, host, port, files))
