"""A connection on which answers are waited for later, so that worker and server work at the same time."""

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import hiredis
from redis import Redis

#: A command's name and arguments. No numbers: where a signal's exception strikes while hiredis turns one into
#: text, it ends the process (3.5.0).
Command = tuple[bytes | str, ...]

Result = TypeVar("Result")
#: What waits for the server now and then: there it yields, so that others may be served meanwhile.
Waiting = Generator[None, None, Result]


def advance(waiting: Waiting[Result]) -> Result | None:
    """Let it go on; returns None when it waits again, else what it returned."""
    try:
        next(waiting)
    except StopIteration as end:
        return cast(Result, end.value)
    return None


class Line:
    """One connection out of a client's pool, for the length of a with block.

    The client itself waits for every answer, a pipeline for all of them, and both look at every single
    argument, which for thousands of keys takes as long as to send them.
    """

    def __init__(self, client: Redis) -> None:
        """Take it out of this client's pool."""
        self._pool = client.connection_pool
        self._waiting = 0

    def send(self, *commands: Command) -> None:
        """Send commands. Raises what the client raises when the connection is lost."""
        self._waiting += len(commands)
        packed = b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]
        self._connection.send_packed_command([packed])  # type: ignore[no-untyped-call]

    def receive(self) -> Any:
        """The answer to the first command that has none yet. Raises ResponseError where it is an error."""
        self._waiting -= 1
        return self._connection.read_response()

    def ask(self, *command: bytes | str) -> Any:
        """Send a command and wait for its answer."""
        self.send(command)
        return self.receive()

    def __enter__(self) -> Self:
        """Connect where that is needed."""
        try:
            self._connection = self._pool.get_connection()
        except BaseException:
            # one that was interrupted while it introduced itself would give the next command the wrong answer
            self._pool.disconnect(inuse_connections=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the connection back; where an answer or a transaction may still be open, it is closed."""
        if kind is not None or self._waiting:
            self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.release(self._connection)
