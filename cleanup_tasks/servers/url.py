"""The URL of the coordination Redis: the only place that reads one.

    redis://[[user]:password@]host[:port][/db]
    unix://[[user]:password@]/path[?db=number]
    redis+cluster://[[user]:password@]host[:port][,host[:port]...][/db]
    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db]

``rediss`` instead of ``redis`` stands for TLS; ``valkey`` and ``valkeys`` are the same. Special characters of
user and password are written as %XX. User and password are the server's; the sentinels' own are parameters:
``?sentinel_username=…&sentinel_password=…&sentinel_tls=true`` (or ``false``; without it as the server), and
their files for TLS, ``sentinel_ca_file=…&sentinel_cert_file=…&sentinel_key_file=…``.
"""

import difflib
import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import unquote

from redis.credentials import CredentialProvider

from cleanup_tasks.servers.tls import Tls, check_authorities, check_certificate


class Layout(Enum):
    """How the servers behind a URL are laid out."""

    SERVER = ""
    CLUSTER = "+cluster"
    SENTINEL = "+sentinel"


#: One URL of each form, for whoever wrote a wrong one.
EXAMPLES = {
    Layout.SERVER: "redis://:password@host:6379/0",
    Layout.CLUSTER: "redis+cluster://:password@host1:6379,host2:6379",
    Layout.SENTINEL: "redis+sentinel://:password@host1:26379,host2:26379/service/0",
}
#: A host without a port, where it has a variable of its own: no brackets around IPv6.
HOST_NAME = r"^([0-9A-Fa-f]*:[0-9A-Fa-f:.]*|[^\[\]:@/?#,\s]+)$"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\s]+)(?::([0-9]{1,5}))?")
_SCHEME = re.compile(r"(?:redis|valkey)(?P<tls>s?)(?P<layout>|\+cluster|\+sentinel)://")
_PLACE = re.compile(
    r"(?:(?P<login>[^/]*)@)?(?P<hosts>[^/@?#]*)(?P<path>/[^@?#]*)?(?:\?(?P<parameters>[^#]*))?"
)
_UNIX = re.compile(r"unix://(?:(?P<login>[^/]*)@)?(?P<path>/[^?#]+)(?:\?db=(?P<database>[0-9]+))?")
_SENTINEL_FILES = ("sentinel_ca_file", "sentinel_cert_file", "sentinel_key_file")
_SENTINEL_PARAMETERS = ("sentinel_username", "sentinel_password", "sentinel_tls", *_SENTINEL_FILES)


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
    #: Gives user and password in place of these.
    credentials: CredentialProvider | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    sentinel_tls: bool = False
    #: The sentinels' own, where they are others than the server's.
    sentinel_files: Tls = Tls()  # noqa: RUF009, it never changes

    @property
    def has_login(self) -> bool:
        """Whether a user or a password is part of it."""
        return self.username is not None or self.password is not None

    def check_files(self) -> None:
        """Raise ValueError for a file of the sentinels' that is not what it should be."""
        own = self.sentinel_files
        try:
            name = "sentinel_ca_file"
            check_authorities(own.ca_file)
            name = "sentinel_cert_file and sentinel_key_file"
            check_certificate(own.cert_file, own.key_file)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def __str__(self) -> str:
        """For people: the server and the database, without the login."""
        hosts = ", ".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        match self.layout:
            case Layout.CLUSTER:
                return f"the cluster of {hosts}"
            case Layout.SENTINEL:
                return f"{self.service} (sentinels {hosts}), database {self.database}"
            case Layout.SERVER:
                return f"{self.socket or hosts}, database {self.database}"


def parse(url: str) -> Address:
    """Read a URL of one of the forms above.

    Raises:
        ValueError: what is wrong and one example, without the URL's text, which may hold a password.
    """
    layout = Layout.SERVER
    try:
        if url.startswith("unix://"):
            return _socket(url)
        scheme = _SCHEME.match(url)
        if not scheme:
            raise ValueError(
                "it must begin with redis://, rediss:// (with TLS) or unix://, "
                "or for a cluster or sentinels with redis+cluster:// or redis+sentinel://"
            )
        layout = Layout(scheme["layout"])
        return _servers(layout, bool(scheme["tls"]), url[scheme.end() :])
    except ValueError as error:
        raise ValueError(f"{error}; an example: {EXAMPLES[layout]}") from None


def _socket(url: str) -> Address:
    match = _UNIX.fullmatch(url)
    if not match:
        raise ValueError("a socket must be written as unix:///path or unix:///path?db=number")
    username, password = _login(match["login"])
    return Address(
        socket=unquote(match["path"]),
        database=int(match["database"] or 0),
        username=username,
        password=password,
    )


def _servers(layout: Layout, tls: bool, place: str) -> Address:
    match = _PLACE.fullmatch(place)
    if not match:
        raise ValueError("the characters / ? # @ and % of user and password must be written as %XX")
    service, database = _path(layout, [part for part in (match["path"] or "").split("/") if part])
    default_port = 26379 if layout is Layout.SENTINEL else 6379
    hosts = tuple(_host(text, default_port) for text in match["hosts"].split(","))
    if layout is Layout.SERVER and len(hosts) > 1:
        raise ValueError("it names more than one host, and only a cluster or sentinels have more than one")
    username, password = _login(match["login"])
    parameters = _parameters(layout, match["parameters"] or "")
    sentinel_tls = layout is Layout.SENTINEL and parameters.get("sentinel_tls", str(tls).lower()) == "true"
    files = {name: Path(path) for name in _SENTINEL_FILES if (path := parameters.get(name))}
    if files and not sentinel_tls:
        raise ValueError(f"{next(iter(files))} is for TLS to the sentinels, and needs sentinel_tls=true")
    ca_file, cert_file, key_file = map(files.get, _SENTINEL_FILES)
    return Address(
        layout=layout,
        hosts=hosts,
        tls=tls,
        service=service,
        database=database,
        username=username,
        password=password,
        sentinel_username=parameters.get("sentinel_username"),
        sentinel_password=parameters.get("sentinel_password"),
        sentinel_tls=sentinel_tls,
        sentinel_files=Tls(ca_file, cert_file, key_file),
    )


def _login(text: str | None) -> tuple[str | None, str | None]:
    username, _, password = (text or "").partition(":")
    return unquote(username) or None, unquote(password) or None


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if not match:
        raise ValueError("a host is missing or malformed")
    port = int(match[2] or default_port)
    if not 1 <= port <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    return match[1].strip("[]"), port


def _path(layout: Layout, parts: list[str]) -> tuple[str, int]:
    """Service and database number."""
    service = ""
    if layout is Layout.SENTINEL:
        if not parts:
            raise ValueError("the service name is missing, which is the sentinels' name for the server")
        service, *parts = parts
    if len(parts) > 1 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError("the database must be a number")
    return unquote(service), int(parts[0]) if parts else 0


def _parameters(layout: Layout, text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split("&") if pair]
    parameters = {name: unquote(value) for name, _, value in pairs}
    known = _SENTINEL_PARAMETERS if layout is Layout.SENTINEL else ()
    if unknown := sorted(parameters.keys() - set(known)):
        for name in unknown:
            # what is like no name may be a part of a password
            for meant in difflib.get_close_matches(name, known, n=1, cutoff=0.85):
                raise ValueError(f"unknown parameter {name}; did you mean {meant}?")
        takes = f"known are {', '.join(known)}" if known else "this form of URL takes none"
        raise ValueError(f"an unknown parameter; {takes}; write & in a password as %26")
    if len(parameters) < len(pairs):
        names = [name for name, _, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    if parameters.get("sentinel_tls", "true") not in ("true", "false"):
        raise ValueError("sentinel_tls must be true or false")
    return parameters
