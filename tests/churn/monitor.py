"""What clients have some servers do, in the order of the servers' clocks, by MONITOR."""

import contextlib
import re
import selectors
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

#: The last thing that is sent to each server.
LAST_WORDS = b"the churn is over"
TICK_S = 0.1

_LINE = re.compile(rb"\+(\d+)\.(\d+) \[\d+ ([^\]]*)\] (.*)", re.DOTALL)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)


class Entry(NamedTuple):
    """A command that a server has done."""

    #: The port of the server, and its time in ms since the epoch.
    port: int
    time_ms: float
    #: ``lua`` or the address of the client.
    client: str
    text: bytes

    @property
    def name(self) -> str:
        """The command's name in capitals."""
        return self.text[1 : self.text.index(b'"', 1)].decode().upper()

    def words(self) -> list[bytes]:
        """The command with its arguments."""
        return [_unescaped(word) for word in _WORD.findall(self.text)]


def _unescaped(word: bytes) -> bytes:
    return word.decode("unicode_escape").encode("latin-1") if b"\\" in word else word


class _Stream:
    """The MONITOR of one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.entries: deque[Entry] = deque()
        #: Nothing more is to come; and whether that is since the server is gone.
        self.ended = False
        self.is_lost = False
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(b"MONITOR\r\n")
        self._rest = b""
        while b"\r\n" not in self._rest:
            self._rest += self.socket.recv(64)
        answer, self._rest = self._rest.split(b"\r\n", 1)
        assert answer == b"+OK", answer

    def read(self) -> None:
        """Take in what is there."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        self.ended = self.is_lost = not data
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            found = _LINE.fullmatch(line)
            assert found is not None, line
            seconds, micros, client, text = found.groups()
            self.ended = self.ended or LAST_WORDS in text
            self.entries.append(
                Entry(self.port, int(seconds) * 1000 + int(micros) / 1000, client.decode(), text)
            )


class Monitor:
    """The MONITORs of some servers; made once all of them answer."""

    def __init__(self, ports: list[int]) -> None:
        """Watch from now on."""
        self._streams = [_Stream(port) for port in ports]

    @property
    def lost(self) -> set[int]:
        """The ports of the servers that are gone, and all that they did was given."""
        return {stream.port for stream in self._streams if stream.is_lost and not stream.entries}

    def entries(self) -> Iterator[Entry]:
        """All that is done, until each server has heard the last words or is gone.

        What one server has done is given in its order, and all of them together by their clocks, which are
        those of one machine.
        """
        ended = threading.Event()
        ticking = threading.Thread(target=self._tick, args=(ended,), daemon=True)
        ticking.start()
        try:
            with selectors.DefaultSelector() as selector:
                for stream in self._streams:
                    selector.register(stream.socket, selectors.EVENT_READ, stream)
                while selector.get_map():
                    for key, _ in selector.select():
                        key.data.read()
                        if key.data.ended:
                            selector.unregister(key.data.socket)
                    yield from self._in_order()
        finally:
            ended.set()
            ticking.join()

    def _in_order(self) -> Iterator[Entry]:
        while all(stream.entries or stream.ended for stream in self._streams):
            waiting = [stream for stream in self._streams if stream.entries]
            if not waiting:
                return
            yield min(waiting, key=lambda stream: stream.entries[0].time_ms).entries.popleft()

    def _tick(self, ended: threading.Event) -> None:
        """Have each server do something, so that nobody waits for one that is idle."""
        never = Retry(NoBackoff(), 0)
        clients = [Redis(port=stream.port, retry=never) for stream in self._streams]
        while not ended.wait(TICK_S):
            for client, stream in zip(clients, self._streams, strict=True):
                with contextlib.suppress(RedisError):
                    if not stream.ended:
                        client.ping()
        for client in clients:
            client.close()
