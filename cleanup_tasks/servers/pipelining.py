"""Commands that are sent before earlier ones are answered: worker and server work at the same time."""

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import hiredis
from redis import Redis
from redis.exceptions import ConnectionError, RedisError, ResponseError

from cleanup_tasks.servers.errors import ScriptingRefused

#: A command's name and arguments. No numbers: where a signal's exception strikes while hiredis turns one into
#: text, it ends the process (3.5.0).
Command = tuple[bytes | str, ...]
Context = TypeVar("Context")
Item = TypeVar("Item")
#: What answers that are no errors are made of.
_PLAIN = frozenset((bytes, int, list, type(None)))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a server is asked for at once."""

    #: COUNT of a SCAN, at most.
    scan_count: int
    #: Keys whose values are read at once.
    read_keys: int
    #: Keys, with those that are compared, in a batch that an engine is given.
    batch_keys: int
    #: Batches that are sent and not yet answered.
    in_flight: int


#: For a server nearby: it always has something to do, and hardly anybody else waits for a ms.
LOW_LATENCY = Limits(scan_count=1_000, read_keys=400, batch_keys=300, in_flight=2)
#: For a server that is far, and would idle while a batch is on its way.
HIGH_LATENCY = Limits(scan_count=2_500, read_keys=1_000, batch_keys=1_000, in_flight=4)
#: For a cluster, where a batch is cut by slots.
MANY_SLOTS = Limits(scan_count=2_500, read_keys=2_500, batch_keys=20_000, in_flight=1)
#: Seconds for a round trip from which on the latency counts as high.
HIGH_LATENCY_S = 0.001


def limits_for(client: Redis) -> Limits:
    """The limits for a server, by the fastest of some round trips: those of a busy machine vary."""
    took_s = []
    for _trip in range(4):  # the first one connects
        started_s = time.perf_counter()
        client.time()
        took_s.append(time.perf_counter() - started_s)
    return LOW_LATENCY if min(took_s) < HIGH_LATENCY_S else HIGH_LATENCY


def chunks(items: list[Item], size: int) -> Iterator[list[Item]]:
    """The items, at most `size` of them at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


class PipelinedConnection:
    """One connection out of a client's pool, for the length of a with block.

    A client itself waits for every answer, a redis-py pipeline for all of them, and both look at every single
    argument, which for thousands of keys takes as long as to send them.
    """

    def __init__(self, client: Redis) -> None:
        """Take it out of this client's pool, with the with block."""
        self._pool = client.connection_pool
        self._unanswered = 0
        self._lost = False

    def send(self, *commands: Command) -> None:
        """Send commands; raises what the client raises when the connection is lost."""
        self._raise_if_lost()
        self._unanswered += len(commands)
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        try:
            self._connection.send_packed_command(packed if len(packed) == 1 else [b"".join(packed)])  # type: ignore[no-untyped-call]
        except BaseException:
            self._lost = True
            raise

    def receive(self) -> Any:
        """The answer to the first command that has none yet.

        Raises ResponseError where it is an error, and ConnectionError where the connection is lost.
        """
        self._raise_if_lost()
        try:
            answer = self._connection.read_response()
        except ResponseError:
            self._unanswered -= 1
            raise
        except BaseException:
            self._lost = True
            raise
        self._unanswered -= 1
        return answer

    def receive_each(self, number: int) -> list[Any]:
        """The answers to so many commands, errors among them as values."""
        answers: list[Any] = []
        while len(answers) < number:
            try:
                answers.append(self.receive())
            except ResponseError as error:
                answers.append(error)
            self._take_buffered(number, answers)
        return answers

    def _take_buffered(self, number: int, answers: list[Any]) -> None:
        """Add answers that have arrived already, up to this number; redis-py takes five times as long."""
        reader = getattr(getattr(self._connection, "_parser", None), "_reader", None)
        if not isinstance(reader, hiredis.Reader):
            return
        take, add, before = reader.gets, answers.append, len(answers)
        for _answer in range(number - before):
            answer = take()
            if type(answer) not in _PLAIN:
                if answer is False or type(answer) is object:
                    break  # what stands for an answer that has not all arrived
                if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                    self._lost = True
                    raise answer
            add(answer)
        self._unanswered -= len(answers) - before

    @contextlib.contextmanager
    def lost_if_interrupted(self) -> Iterator[None]:
        """Have the connection count as lost where a signal's exception strikes within.

        An answer that was read and not taken note of would make the next one look like it.
        """
        try:
            yield
        except (RedisError, ScriptingRefused):
            raise
        except BaseException:
            self._lost = True
            raise

    def _raise_if_lost(self) -> None:
        # redis-py would connect anew, where nothing of what was sent before (a WATCH) holds
        if self._lost:
            raise ConnectionError("the connection was lost")

    def ask(self, *command: bytes | str) -> Any:
        """Send a command and wait for its answer."""
        self.send(command)
        return self.receive()

    def open(self) -> Self:
        """Connect where that is needed."""
        try:
            self._connection = self._pool.get_connection()
        except BaseException:
            # one that was interrupted while it introduced itself would give the next command the wrong answer
            self._pool.disconnect(inuse_connections=False)
            raise
        return self

    def close(self) -> None:
        """Give the connection back; where an answer or a transaction may still be open, it is closed."""
        if self._unanswered or self._lost:
            self._unanswered, self._lost = 0, False
            self._connection.disconnect()  # type: ignore[no-untyped-call]
        self._pool.release(self._connection)

    def discard(self) -> None:
        """Close the connection, for a transaction may be open on it."""
        self._lost = True
        self.close()

    def __enter__(self) -> Self:
        """See `open`."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self._lost = self._lost or kind is not None
        self.close()


class Request:
    """Commands that are on their way, on a connection of their own.

    A connection that was held from one request to the next might idle for longer than the server allows.
    """

    def __init__(self, client: Redis, commands: Iterable[Command]) -> None:
        """Send the commands."""
        commands = list(commands)
        self._number = len(commands)
        self._connection: PipelinedConnection | None = PipelinedConnection(client).open()
        try:
            self._connection.send(*commands)
        except BaseException:
            self.close()
            raise

    def answers(self) -> list[Any]:
        """Wait for the answers; errors of the server are among them as values."""
        assert self._connection is not None
        try:
            return self._connection.receive_each(self._number)
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back; whoever does not want the answers any more has to say so."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def answered(
    requests: Iterable[tuple[Context, Request]], ahead: int = 1
) -> Iterator[tuple[Context, list[Any]]]:
    """The answers to each request, and what came with it; `ahead` more are sent before one is awaited."""
    waiting: deque[tuple[Context, Request]] = deque()
    try:
        for sent in requests:
            waiting.append(sent)
            if len(waiting) > ahead:
                context, request = waiting.popleft()
                yield context, request.answers()
        while waiting:
            context, request = waiting.popleft()
            yield context, request.answers()
    finally:
        for _context, request in waiting:
            request.close()


def or_raise(answers: list[Any]) -> list[Any]:
    """The answers, if no error is among them; else raises the first one, which says why."""
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return answers
