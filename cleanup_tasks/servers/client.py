"""Clients of the coordination Redis, configured so that all redis-py versions behave alike."""

import inspect
import math
import os
import time
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.exceptions import AuthenticationError, RedisError, ResponseError, TimeoutError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from cleanup_tasks.servers.errors import in_short
from cleanup_tasks.servers.tls import Tls
from cleanup_tasks.servers.url import Address

#: Seconds until an answer counts as lost. No call we send takes longer than ms.
TIMEOUT_S = 5.0
#: Seconds until a connection can't be had. A server that is gone costs a worker so much at each attempt.
CONNECT_TIMEOUT_S = 2.0

#: Seconds until a reply that has begun has to be complete: each of its bytes renews the time-out above.
REPLY_S = 30.0

#: How connections are called in CLIENT LIST, before a hyphen and the id of the process.
CLIENT_NAME = "cleanup-blocking-coordination"

#: No CLIENT SETINFO, which the smallest ACL user may not send; the option's name depends on the version.
_NO_LIBRARY_INFO: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(Redis).parameters
    else {"lib_name": None, "lib_version": None}
)


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's, which gives up a reply that goes on for too long."""

    _until_s = math.inf

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        self._until_s = time.monotonic() + REPLY_S
        return super().read_response(*arguments, **options)

    def read_from_socket(self, *arguments: Any, **options: Any) -> Any:
        if time.monotonic() > self._until_s:
            raise TimeoutError(f"a reply was not complete after {REPLY_S:g} s")
        return super().read_from_socket(*arguments, **options)


class Sentinels(Sentinel):
    """redis-py's, but for its message, which shows every client with all its options."""

    def discover_master(self, service_name: str) -> Any:
        """The host and port of a service's primary.

        Raises:
            AuthenticationError: no sentinel takes our login.
            MasterNotFoundError: none of them knows a primary now; the message says what each of them said.
        """
        reasons: list[str] = []
        refusals = 0
        for number, sentinel in enumerate(self.sentinels):
            place = "{host}:{port}".format(**sentinel.connection_pool.connection_kwargs)
            try:
                services: Any = sentinel.sentinel_masters()
            except RedisError as error:
                reasons.append(f"{place}: {in_short(error)}")
                refusals += isinstance(error, AuthenticationError)
                continue
            state = services.get(service_name)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                # whoever answers is asked first the next time
                self.sentinels.insert(0, self.sentinels.pop(number))
                return state["ip"], state["port"]
            known = "it counts as down" if state else f"known are {', '.join(sorted(services)) or 'none'}"
            reasons.append(f"{place}: {known}")
        kind = AuthenticationError if refusals == len(reasons) else MasterNotFoundError
        raise kind(f"no sentinel names a primary of {service_name!r} ({'; '.join(reasons)})")


def client_of(address: Address, host: str, port: int, tls: Tls) -> Redis:
    """A client for one server of an address; it connects with the first command.

    It never repeats a command on its own: a deletion whose answer is lost must not be sent again and
    then report "0 deleted".
    """
    if address.socket:
        return Redis(unix_socket_path=address.socket, **_of_server(address, tls))
    return Redis(host=host, port=port, **_of_server(address, tls))


def primary_of(address: Address, tls: Tls) -> Redis:
    """A client for whatever server the sentinels of an address call the primary of its service.

    A new connection asks them anew; an answer of a server that has become a replica drops all
    connections.
    """
    theirs = {
        "username": address.sentinel_username,
        "password": address.sentinel_password,
        **(tls.but(address.sentinel_files).options() if address.sentinel_tls else {}),
        **_behaviour(),
    }
    sentinels = Sentinels(address.hosts, sentinel_kwargs=theirs)  # type: ignore[no-untyped-call]
    return cast(Redis, sentinels.master_for(address.service, **_of_server(address, tls)))  # type: ignore[no-untyped-call]


def _introduce(connection: Any) -> None:
    """Log in, and name the connection by HELLO, which each user may send where CLIENT SETNAME is refused."""
    connection.set_parser(_Parser)
    connection.on_connect()
    name = f"{CLIENT_NAME}-{os.getpid()}"
    connection.send_command("HELLO", "2", "SETNAME", name, check_health=False)
    try:
        connection.read_response()
    except AuthenticationError:  # its text is about HELLO itself
        raise AuthenticationError("Authentication required.") from None
    except ResponseError:
        return  # a proxy that doesn't know it


def _behaviour() -> dict[str, Any]:
    return {
        "redis_connect_func": _introduce,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
        **_NO_LIBRARY_INFO,
    }


def _of_server(address: Address, tls: Tls) -> dict[str, Any]:
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    if address.credentials:
        login = {"credential_provider": address.credentials}
    return {"db": address.database, **login, **(tls.options() if address.tls else {}), **_behaviour()}


def version_of(client: Redis) -> str:
    """Name and version of a server, by HELLO, which each user may send; or that it does not say it."""
    try:
        answer = client.execute_command("HELLO")  # type: ignore[no-untyped-call]
    except ResponseError:
        return "unknown"  # a proxy
    said = dict(zip(answer[::2], answer[1::2], strict=True))
    return f"{said[b'server'].decode()} {said[b'version'].decode()}"


def noted_ms(client: Redis, key: bytes) -> int:
    """The time in ms that a key of ours holds; 0 where it is missing or somebody else's."""
    noted = client.getrange(key, 0, 15)
    return int(noted) if noted.isdigit() else 0


def server_time_ms(client: Redis) -> int:
    """The server's time, in whole ms since the epoch; the worker's clock decides nothing."""
    return time_ms(client.time())


def time_ms(answer: Sequence[bytes | int]) -> int:
    """TIME's answer (seconds, microseconds) in whole ms since the epoch."""
    seconds, microseconds = map(int, answer)
    return seconds * 1000 + microseconds // 1000
