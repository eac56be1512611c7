"""What an engine is: it takes batches, and answers in the same order."""

from collections.abc import Sequence
from typing import Protocol

from cleanup_tasks.engines.batch import Answer, Batch


class Engine(Protocol):
    """What compares and deletes."""

    @property
    def in_flight(self) -> int:
        """Batches that may be under way at once."""

    @property
    def pending(self) -> int:
        """Batches that were sent and have no answer yet."""

    def open(self) -> None:
        """Find out whether the engine can work here, before anything is deleted.

        Raises:
            ScriptingRefused: the server refuses scripts, or its user may not run them.
            RedisError: anything else that is wrong there.
        """

    def send(self, batches: Sequence[Batch]) -> None:
        """Begin with some batches; raises as `open` does. Nothing is sent twice."""

    def receive(self) -> tuple[Batch, Answer]:
        """The first batch that has no answer yet, and its answer.

        Raises as `send` does. An error answer leaves the others pending; where the connection is lost, each
        further call raises ConnectionError.
        """

    def close(self) -> None:
        """Give the connections back; what is under way is left to itself."""
