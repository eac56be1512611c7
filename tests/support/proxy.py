"""A TCP proxy in front of a server, which tests use to break a connection just where it hurts."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

#: The beginning of the answer to TIME: the seconds, and then the microseconds.
_TIME = re.compile(rb"\*2\r\n\$10\r\n(\d{10})\r\n")


class Proxy:
    """Forwards to a port of the loopback, until it is told to refuse or to cut."""

    def __init__(self, port: int) -> None:
        """Listen on a free port for the server on `port`."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._word = b""
        self._left = 0
        self._hold = False
        self.refusing = False
        #: Seconds between one byte of an answer and the next, where answers drip.
        self.drip_s = 0.0
        #: Seconds by which the server's clock seems to have been set forward.
        self.ahead_s = 0
        #: How many bytes of the next answer are passed on before its connection is cut; None: all of it.
        self.answer_bytes: int | None = None
        #: Connections that were refused or cut.
        self.broken = 0
        self._sockets: set[socket.socket] = set()
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, word: bytes, occurrence: int, *, hold: bool = False) -> None:
        """Pass the n-th command that holds `word` on to the server, and cut before its answer.

        With `hold` the client gets neither an answer nor an end.
        """
        self._word, self._left, self._hold = word, occurrence, hold

    @contextlib.contextmanager
    def partition(self) -> Iterator[None]:
        """Let nobody through for the length of a with block."""
        self.refusing = True
        for connection in list(self._sockets):
            self._hang_up(connection)
        try:
            yield
        finally:
            self.refusing = False

    def turn_to(self, port: int) -> None:
        """From now on forward to another server, as an address does that moves after a failover."""
        self._target = port
        for connection in list(self._sockets):
            self._hang_up(connection)

    def pass_on(self, request: bytes) -> None:
        """Called before a client's bytes are sent on; to raise OSError cuts the connection."""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inbound, _ = self._listener.accept()
                if self.refusing:
                    self.broken += 1
                    inbound.close()
                    continue
                try:
                    outbound = socket.create_connection(("127.0.0.1", self._target))
                except ConnectionRefusedError:  # the server is gone
                    inbound.close()
                    continue
                self._sockets |= {inbound, outbound}
                threading.Thread(target=self._requests, args=(inbound, outbound), daemon=True).start()
                threading.Thread(target=self._answers, args=(outbound, inbound), daemon=True).start()

    def _requests(self, inbound: socket.socket, outbound: socket.socket) -> None:
        with contextlib.suppress(OSError), inbound:
            while data := inbound.recv(65536):
                if self._left and self._word in data:
                    self._left -= 1
                    if not self._left:
                        self.broken += 1
                        self._cut(inbound, outbound, data)
                        continue
                self.pass_on(data)
                outbound.sendall(data)
        self._hang_up(outbound)

    def _cut(self, inbound: socket.socket, outbound: socket.socket, data: bytes) -> None:
        """Let the server have the whole command, and the client nothing more."""
        self._sockets.discard(inbound)
        outbound.sendall(data)
        inbound.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while data := inbound.recv(65536):  # the rest of a command that came in pieces
                outbound.sendall(data)
        inbound.settimeout(None)
        if not self._hold:
            self._hang_up(inbound)
            self._hang_up(outbound)

    def _answers(self, outbound: socket.socket, inbound: socket.socket) -> None:
        with contextlib.suppress(OSError), outbound:
            while data := outbound.recv(65536):
                if self.answer_bytes is not None:
                    inbound.sendall(data[: self.answer_bytes])
                    self.answer_bytes = None
                    self.broken += 1
                    break
                if inbound in self._sockets and not self.drip_s:
                    inbound.sendall(_TIME.sub(self._set_forward, data))
                elif inbound in self._sockets:
                    self._drip(inbound, data)
        self._hang_up(inbound)

    def _set_forward(self, time: re.Match[bytes]) -> bytes:
        return b"*2\r\n$10\r\n%d\r\n" % (int(time[1]) + self.ahead_s)

    def _drip(self, inbound: socket.socket, data: bytes) -> None:
        for byte in data:
            if not self._ended.wait(self.drip_s):
                inbound.sendall(bytes([byte]))

    @staticmethod
    def _hang_up(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        """It listens already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up everywhere."""
        self._ended.set()
        self._hang_up(self._listener)
        self._listener.close()
        for connection in self._sockets:
            self._hang_up(connection)
            connection.close()
