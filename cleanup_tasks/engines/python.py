"""The Python engine: the same step without scripting, by WATCH, MULTI and EXEC."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from cleanup_tasks.engines.batch import Answer, Batch, EngineName, given_up
from cleanup_tasks.servers.client import time_ms
from cleanup_tasks.servers.errors import is_wrong_type
from cleanup_tasks.servers.pipelining import Command, PipelinedConnection, chunks, or_raise

#: How often a batch is tried when its guards change between the look and the deletion.
ATTEMPTS = 5
#: Keys of one WATCH or EXISTS. Redis looks through all that the connection watches for each key of a WATCH,
#: so one that names many keeps others waiting.
WATCH_KEYS = 300
#: Redis before 7.2 puts nothing into a transaction then, not even a deletion, and without one nothing can be
#: deleted only if it has not changed.
MEMORY_FULL = (
    "this server takes no transaction while its memory is full: let the user run scripts, which it takes, "
    "or raise maxmemory"
)


class PythonEngine:
    """Deletes by optimistic locking: if a guard changes after the look, nothing happens. An `Engine`."""

    name: EngineName = "python"

    def __init__(self, client: Redis, in_flight: int = 2, *, ordered: bool = True) -> None:
        """Use this client.

        Args:
            client: of one server.
            in_flight: batches that the server may be busy with at once.
            ordered: whether a batch may depend on those before: its deletion is sent when theirs are done.
        """
        self._client = client
        self._ordered = ordered
        self._under_way: deque[_Transaction] = deque()
        self._idle: list[PipelinedConnection] = []
        #: One more, for while one is deleted the next is looked at, and the one after that is on its way.
        self.in_flight = in_flight + 1

    @property
    def pending(self) -> int:
        """See `Engine.pending`."""
        return len(self._under_way)

    def open(self) -> None:
        """See `Engine.open`."""
        with PipelinedConnection(self._client) as connection:
            connection.send(("MULTI",), ("EXEC",))
            connection.receive()
            connection.receive()

    def send(self, batches: Sequence[Batch]) -> None:
        """See `Engine.send`."""
        for batch in batches:
            connection = self._idle.pop() if self._idle else PipelinedConnection(self._client).open()
            transaction = _Transaction(connection, batch)
            try:
                transaction.look()
            except BaseException:
                connection.close()
                raise
            self._under_way.append(transaction)

    def receive(self) -> tuple[Batch, Answer]:
        """See `Engine.receive`."""
        if not self._ordered:
            for transaction in self._under_way:
                transaction.decide()
        transaction = self._under_way[0]
        try:
            transaction.decide()
            with transaction.connection.lost_if_interrupted():
                answer = self._answer(transaction)
                self._idle.append(transaction.connection)
        except RedisError:
            transaction.connection.discard()
            raise
        finally:
            self._under_way.popleft()
        if self._under_way:
            self._under_way[0].decide()
        return transaction.batch, answer

    def close(self) -> None:
        """See `Engine.close`."""
        while self._idle:
            self._idle.pop().close()
        while self._under_way:
            self._under_way.popleft().connection.discard()

    @staticmethod
    def _answer(transaction: "_Transaction") -> Answer:
        for attempt in range(ATTEMPTS):
            if attempt:
                transaction.look()
                transaction.decide()
            answer = transaction.result()
            if answer is not None:
                return answer
        return given_up(transaction.batch)


class _Transaction:
    """A batch on its way, on a connection of its own."""

    def __init__(self, connection: PipelinedConnection, batch: Batch) -> None:
        self.connection = connection
        self.batch = batch
        self._watches: list[Command] = []
        self._questions: list[Command] = []
        #: Whether each absent key is asked for alone: it is so once one of them is there.
        self._asks_apart = False
        #: Commands whose answers are still to come; None: it is not decided yet.
        self._commands: list[Command] | None = None
        #: Why it could not be decided.
        self._error: RedisError | None = None
        #: The groups that stay; None: which ones will be known after another look.
        self._kept: list[int] | None = None
        #: Whether the server's clock says that it was not judged yet.
        self._is_early = False

    def look(self) -> None:
        """Ask for what the guards say now; all that is read is watched before."""
        batch = self.batch
        self._commands = None
        self._watches = [
            ("WATCH", *some) for some in chunks(list(dict.fromkeys(batch.guarded())), WATCH_KEYS)
        ]
        absent = [("EXISTS", *some) for some in chunks(batch.absent, WATCH_KEYS)]
        self._questions = [
            *self._watches,
            *(batch.questions() if self._asks_apart else [*batch.questions_of_content(), *absent]),
            ("TIME",),
            # Answered before anything is deleted: where MULTI is refused, an UNLINK sent behind it would be
            # done at once, whatever has changed.
            ("MULTI",),
        ]
        self.connection.send(*self._questions)

    def decide(self) -> None:
        """Take in the look, and ask for the deletion of what has not changed."""
        if self._commands is not None or self._error is not None:
            return
        try:
            with self.connection.lost_if_interrupted():
                doomed = self._doomed(*self._answers())
                delete = ("EXISTS" if self.batch.dry_run else "UNLINK", *doomed)
                self._commands = [delete, ("EXEC",)] if doomed else [("EXEC",)]
                self.connection.send(*self._commands)
        except RedisError as error:
            self._error = error

    def _answers(self) -> tuple[list[Any], int]:
        """What was answered about the guards, where a key of another type is an answer too, and the time."""
        answers = self.connection.receive_each(len(self._questions))
        for answer in answers:
            if isinstance(answer, ResponseError) and not is_wrong_type(answer):
                raise answer
        return answers[len(self._watches) : -2], time_ms(answers[-2])

    def result(self) -> Answer | None:
        """What was done; None where nothing was, and it takes another look to know why.

        Raises what went wrong here or in `decide`.
        """
        if self._error is not None:
            raise self._error
        assert self._commands is not None
        answers = self._done(len(self._commands))
        if self._is_early:
            return given_up(self.batch)
        if self._kept is None:
            return None
        if len(answers) == 1:
            return Answer(0, self._kept)
        if answers[-1] is None:
            return None
        (deleted,) = answers[-1]
        if isinstance(deleted, ResponseError):
            raise deleted
        return Answer(deleted, self._kept)

    def _done(self, number: int) -> list[Any]:
        """The answers to so many commands; the first error says why, an aborted EXEC only says that."""
        try:
            return or_raise(self.connection.receive_each(number))
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{error}; {MEMORY_FULL}") from None

    def _doomed(self, answers: list[Any], now_ms: int) -> list[bytes]:
        """The keys that go by what was answered about the guards at that time."""
        batch = self.batch
        self._is_early = now_ms < batch.judged_at_ms
        if self._is_early:
            return []
        if not self._asks_apart:
            content = len(batch.values) + len(batch.fields)
            if any(answers[content:]):
                self._asks_apart, self._kept = True, None
                return []
            answers[content:] = [0] * len(batch.absent)
        self._kept = batch.kept(batch.changed(answers))
        if not self._kept:
            return batch.keys
        kept = set(self._kept)
        return [key for number, keys in enumerate(batch.group_keys()) if number not in kept for key in keys]
