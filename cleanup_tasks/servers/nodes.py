"""The nodes of a cluster, which are asked side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from cleanup_tasks.servers.pipelining import Command, Request
from cleanup_tasks.servers.restarts import REPLACED, Info, check_still_primaries

#: Host and port.
Node = tuple[str, int]
#: What a node answers to several commands, errors of the server among it as values; or how it was lost.
Answers = list[Any] | RedisError


def _primaries_of(ranges: Iterable[Any]) -> set[bytes]:
    """Their ids: an address may be spelt in several ways."""
    return {id_ for _first, _last, (_host, _port, id_, *_rest), *_replicas in ranges}


class Nodes:
    """Sends commands to all nodes before it awaits the answer of one.

    A node that was lost is not asked again in the same sweep: each question would cost a time-out.
    """

    def __init__(self, connect: Callable[[str, int], Redis]) -> None:
        """`connect` makes a client for a node."""
        self._connect = connect
        self._clients: dict[Node, Redis] = {}
        #: Nodes that were lost, and how.
        self.down: dict[Node, RedisError] = {}
        #: The ids of those that were primaries at first, and what these said then, where they were asked.
        self._ids: set[bytes] = set()
        self._infos: dict[Node, Info] = {}

    def client(self, node: Node) -> Redis:
        """The client of one node."""
        if node not in self._clients:
            self._clients[node] = self._connect(*node)
        return self._clients[node]

    def lose(self, node: Node, error: RedisError) -> RedisError:
        """Remember that a node can't be asked any more, but for an error answer; returns the error."""
        if not isinstance(error, ResponseError):
            self.down[node] = error
        return error

    def slots(self, node: Node) -> list[Any]:
        """Ranges of slots, each with its primary and the replicas, as a node knows them."""
        return cast(list[Any], self.client(node).execute_command("CLUSTER", "SLOTS"))  # type: ignore[no-untyped-call]

    def first_infos(self, nodes: Iterable[Node]) -> list[Info]:
        """What each node that answered said about itself when this was called first.

        Raises ResponseError where one refuses to.
        """
        self._infos = self._infos or self._ask_infos(nodes)
        return list(self._infos.values())

    def _ask_infos(self, nodes: Iterable[Node]) -> dict[Node, Info]:
        infos: dict[Node, Info] = {}
        for node in nodes:
            try:
                infos[node] = self.client(node).info()
            except ResponseError:
                raise
            except RedisError as error:
                self.lose(node, error)
        return infos

    def note_primaries(self, ranges: Iterable[Any]) -> None:
        """Note who is a primary by the first answer of `slots`."""
        self._ids = self._ids or _primaries_of(ranges)

    def check_still_primaries(self, nodes: Iterable[Node]) -> None:
        """Raise ReadOnlyError where one that was a primary at first is none any more.

        A primary that was cut off doesn't know it yet, so all are asked who has slots: these nodes too.
        """
        for node in dict.fromkeys((*self._infos, *nodes)):
            if node in self.down:
                raise self.down[node]
            if not self._ids.issubset(_primaries_of(self.slots(node))):
                raise ReadOnlyError(REPLACED)
        check_still_primaries(self._infos.values(), self._ask_infos(self._infos).values())

    def ask(self, commands: Mapping[Node, Sequence[Command]]) -> dict[Node, Answers]:
        """What each node answers."""
        return self.receive(self.send(commands))

    def send(self, commands: Mapping[Node, Sequence[Command]]) -> dict[Node, Request | RedisError]:
        """Send each node its commands; whoever does not `receive` has to `abandon`."""
        sent: dict[Node, Request | RedisError] = {}
        try:
            for node, its_commands in commands.items():
                try:
                    sent[node] = self.down.get(node) or Request(self.client(node), its_commands)
                except RedisError as error:
                    sent[node] = self.lose(node, error)
        except BaseException:
            self.abandon(sent)
            raise
        return sent

    def receive(self, sent: Mapping[Node, Request | RedisError]) -> dict[Node, Answers]:
        """The answers to what was sent."""
        answers: dict[Node, Answers] = {}
        try:
            for node, request in sent.items():
                try:
                    answers[node] = request if isinstance(request, RedisError) else request.answers()
                except RedisError as error:
                    answers[node] = self.lose(node, error)
        finally:
            self.abandon(sent)
        return answers

    @staticmethod
    def abandon(sent: Mapping[Node, Request | RedisError]) -> None:
        """Await no answer any more."""
        for request in sent.values():
            if isinstance(request, Request):
                request.close()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()
