"""The Lua engine: one script call compares and deletes a batch."""

import hashlib
from array import array
from collections import deque
from collections.abc import Sequence
from itertools import chain
from sys import byteorder
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from cleanup_tasks.engines.batch import Answer, Batch, EngineName, given_up
from cleanup_tasks.packaged import path_of
from cleanup_tasks.servers.errors import ScriptingRefused, in_short, is_about_the_server
from cleanup_tasks.servers.pipelining import Command, PipelinedConnection

SCRIPT_NAME = "delete_if_unchanged.lua"
#: How often the script is loaded where somebody flushes it at once.
ATTEMPTS = 3
#: A time that the script takes and that has passed.
PAST_MS = 10**12


def script_source(name: str = SCRIPT_NAME) -> str:
    """The text of a script.

    Raises:
        ScriptingRefused: its file is missing.
    """
    try:
        return (path_of("lua") / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScriptingRefused(f"script not found: {name}") from None


#: Stands for the answer to a batch that is given up.
_OVERTAKEN = object()


class LuaEngine:
    """Deletes by EVALSHA, every key declared. An `Engine`."""

    name: EngineName = "lua"

    def __init__(self, client: Redis, in_flight: int = 2) -> None:
        """Use this client, with `in_flight` batches under way at once.

        Raises:
            ScriptingRefused: the script's file is missing.
        """
        self.in_flight = in_flight
        self._client = client
        self._source = script_source()
        self._sha = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()
        self._sent: deque[Batch] = deque()
        #: Answers that were taken in ahead of their turn.
        self._early: deque[Any] = deque()
        self._connection: PipelinedConnection | None = None

    @property
    def pending(self) -> int:
        """See `Engine.pending`."""
        return len(self._sent)

    def open(self) -> None:
        """See `Engine.open`: load the script, and call it with nothing to do."""
        if self._connection is None:
            self._connection = PipelinedConnection(self._client).open()
        for attempt in range(ATTEMPTS):
            try:
                self._connection.ask("SCRIPT", "LOAD", self._source)
                self._connection.ask(*self._call(Batch(PAST_MS, dry_run=True)))
                return
            except ResponseError as error:
                # somebody may flush the scripts between the two
                if attempt + 1 == ATTEMPTS or not isinstance(error, NoScriptError):
                    raise _as_refusal(error) from error

    def send(self, batches: Sequence[Batch]) -> None:
        """See `Engine.send`."""
        if self._connection is None:
            self.open()
        # whoever is interrupted before all of it was sent must not wait for an answer
        self._opened.send(*map(self._call, batches))
        self._sent.extend(batches)

    def receive(self) -> tuple[Batch, Answer]:
        """See `Engine.receive`."""
        connection = self._opened
        with connection.lost_if_interrupted():
            answer = self._early.popleft() if self._early else connection.receive_each(1)[0]
            if isinstance(answer, NoScriptError):  # somebody flushed the scripts, so nothing was done
                answer = self._send_again(answer)
            batch = self._sent.popleft()
            if isinstance(answer, ScriptingRefused):
                raise answer
            if isinstance(answer, ResponseError):
                raise _as_refusal(answer) from answer
            if answer is _OVERTAKEN or not answer:
                return batch, given_up(batch)
            deleted, kept = answer
            return batch, Answer(deleted, kept)

    def close(self) -> None:
        """See `Engine.close`."""
        connection, self._connection = self._connection, None
        self._sent.clear()
        self._early.clear()
        if connection is not None:
            connection.close()

    @property
    def _opened(self) -> PipelinedConnection:
        assert self._connection is not None, "nothing was sent"
        return self._connection

    def _send_again(self, first: Any) -> Any:
        """Load the script anew, and send again what was answered NOSCRIPT; returns the first answer.

        A batch is given up if a later one was done meanwhile, by a script that somebody else has loaded: the
        order in which things go would not hold any more.
        """
        taken = [first, *self._early]
        answers = [*taken, *self._opened.receive_each(len(self._sent) - len(taken))]
        again = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        last_done = max(set(range(len(answers))).difference(again), default=-1)
        for number in again:
            answers[number] = _OVERTAKEN
        again = [number for number in again if number > last_done]
        try:
            self.open()
        except (ResponseError, ScriptingRefused) as refusal:
            anew: list[Any] = [refusal] * len(again)
        else:
            self._opened.send(*(self._call(self._sent[number]) for number in again))
            anew = self._opened.receive_each(len(again))
        for number, answer in zip(again, anew, strict=True):
            answers[number] = answer
        self._early = deque(answers[1:])
        return answers[0]

    def _call(self, batch: Batch) -> Command:
        """The call for a batch, as the script's head describes it."""
        counts = (len(batch.values), len(batch.fields), len(batch.absent))
        numbers = map(str, (batch.judged_at_ms, int(batch.dry_run), *counts))
        names = [*batch.guarded(), *batch.keys]
        return (
            *("EVALSHA", self._sha, str(len(names))),
            *names,
            *numbers,
            _layout(batch),
            *batch.expected,
            *chain.from_iterable((name, value) for _, name, value in batch.fields),
        )


def _layout(batch: Batch) -> bytes:
    """How many keys and guards each group has, and the guards' numbers; 32 bits each, low byte first."""
    groups = zip(batch.group_guards, batch.group_sizes, strict=True)
    numbers = array("I", chain.from_iterable((size, len(guards), *guards) for guards, size in groups))
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _as_refusal(error: ResponseError) -> ResponseError | ScriptingRefused:
    """ScriptingRefused where scripting is the trouble, else the error itself."""
    if is_about_the_server(error) or (isinstance(error, NoPermissionError) and "to access" in str(error)):
        return error
    return ScriptingRefused(in_short(error))
