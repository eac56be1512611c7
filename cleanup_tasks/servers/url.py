"""The URL of the coordination Redis: the only place that reads one."""

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote

FORMS = (
    "redis://[[user]:password@]host[:port][/db], "
    "unix://[[user]:password@]/path[?db=number], "
    "redis+cluster://[[user]:password@]host[:port][,host[:port]...] or "
    "redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db]; "
    "with rediss instead of redis for TLS; special characters of user and password as %XX"
)


class Layout(Enum):
    """How the servers behind a URL are laid out."""

    SERVER = ""
    CLUSTER = "+cluster"
    SENTINEL = "+sentinel"


#: A host without a port, where it has a variable of its own: no brackets around IPv6.
HOST_NAME = r"^([0-9A-Fa-f]*:[0-9A-Fa-f:.]*|[^\[\]:@/?#,\s]+)$"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\s]+)(?::([0-9]{1,5}))?")
_TCP = re.compile(
    r"redis(?P<tls>s?)(?P<layout>|\+cluster|\+sentinel)://(?:(?P<login>[^/]*)@)?(?P<hosts>[^/@?#]*)(?P<path>/[^?#]*)?"
)
_UNIX = re.compile(r"unix://(?:(?P<login>[^/]*)@)?(?P<path>/[^?#]+)(?:\?db=(?P<database>[0-9]+))?")
_DEFAULT_PORTS = {Layout.SERVER: 6379, Layout.CLUSTER: 6379, Layout.SENTINEL: 26379}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the coordination Redis is, and how to log in."""

    layout: Layout = Layout.SERVER
    #: Host and port: the server, some of the cluster's nodes, or the sentinels. None for a socket.
    hosts: tuple[tuple[str, int], ...] = ()
    tls: bool = False
    #: The path of a Unix socket, or empty.
    socket: str = ""
    #: What the sentinels call it.
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def parse(url: str) -> Address:
    """Read a URL of one of the `FORMS`.

    Raises:
        ValueError: what is wrong, without the URL's text, which may hold a password.
    """
    if match := _UNIX.fullmatch(url):
        username, password = _login(match["login"])
        return Address(
            socket=unquote(match["path"]),
            database=int(match["database"] or 0),
            username=username,
            password=password,
        )
    match = _TCP.fullmatch(url)
    if not match:
        raise ValueError("not of an accepted form")
    layout = Layout(match["layout"])
    service, database = _path(layout, [part for part in (match["path"] or "").split("/") if part])
    hosts = tuple(_host(text, _DEFAULT_PORTS[layout]) for text in match["hosts"].split(","))
    if layout is Layout.SERVER and len(hosts) > 1:
        raise ValueError("more than one host")
    username, password = _login(match["login"])
    return Address(
        layout=layout,
        hosts=hosts,
        tls=bool(match["tls"]),
        service=service,
        database=database,
        username=username,
        password=password,
    )


def _login(text: str | None) -> tuple[str | None, str | None]:
    username, _, password = (text or "").partition(":")
    return unquote(username) or None, unquote(password) or None


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if not match:
        raise ValueError("a host is missing or malformed")
    port = int(match[2] or default_port) if match[2] != "" else 0
    if not 1 <= port <= 65535:
        raise ValueError("a port is not in 1 to 65535")
    return match[1].strip("[]"), port


def _path(layout: Layout, parts: list[str]) -> tuple[str, int]:
    """Service and database number."""
    service = ""
    if layout is Layout.SENTINEL:
        if not parts:
            raise ValueError("no service name")
        service, *parts = parts
    if layout is Layout.CLUSTER and parts:
        raise ValueError("a cluster has no database numbers")
    if len(parts) > 1 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError("the database is no number")
    return unquote(service), int(parts[0]) if parts else 0
