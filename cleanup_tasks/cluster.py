"""A Redis Cluster: which primary serves which slot, and commands for all of them side by side."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, ResponseError, TryAgainError

from cleanup_tasks.connection import scan_command, server_time_ms
from cleanup_tasks.engines import Engine, NodeEngine
from cleanup_tasks.engines.cluster import ClusterEngine
from cleanup_tasks.failures import is_transient
from cleanup_tasks.pace import FAR

SLOTS = 16_384
#: How often a command follows its slot to another primary, or waits for it, before it is given up.
ROUNDS = 6
#: Primaries that are talked to at once.
MAX_THREADS = 32
#: Seconds of the first wait for a slot that moves; each further wait is twice as long.
PAUSE_S = 0.05

#: Host and port.
Node = tuple[str, int]
Result = TypeVar("Result")

#: Answers of a server that has done nothing, for the slot is elsewhere or on its way.
REDIRECTIONS = (AskError, TryAgainError)


class Cluster:
    """The primaries of a cluster. A `Topology`.

    redis-py's own cluster client repeats commands whose answer was lost, and has no transaction for the
    Python engine; what it knows of slots and redirections is used here.
    """

    def __init__(self, seeds: Iterable[Node], connect: Callable[[str, int], Redis]) -> None:
        """`seeds` are some of its nodes; `connect` makes a client for any."""
        self._seeds = list(seeds)
        self._connect = connect
        self._clients: dict[Node, Redis] = {}
        self._owners: list[Node | None] = [None] * SLOTS
        self._primaries: list[Node] = []
        self._down: dict[Node, RedisError] = {}
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="cluster")
        self.failure: RedisError | None = None
        self.pace = FAR

    def reach(self) -> None:
        """See `Topology.reach`."""
        self.refresh()

    def is_replica(self) -> bool:
        """See `Topology.is_replica`: primaries alone are asked."""
        return False

    def refresh(self) -> None:
        """Learn anew which primary serves which slot; raises what the last node said if none answers."""
        error: RedisError = ClusterDownError("no node is known")
        nodes = dict.fromkeys([*self._primaries, *self._seeds])
        for node in sorted(nodes, key=self._down.__contains__):
            try:
                ranges = cast(list[Any], self.client(node).execute_command("CLUSTER", "SLOTS"))  # type: ignore[no-untyped-call]
            except RedisError as failure:
                error = failure
                if not is_transient(failure):
                    raise
                continue
            owners: list[Node | None] = [None] * SLOTS
            for first, last, (host, port, *_rest), *_replicas in ranges:
                # a node that knows no name of itself leaves it empty
                owner = ((host or node[0].encode()).decode(), int(port))
                owners[first : last + 1] = [owner] * (last + 1 - first)
            self._owners = owners
            self._primaries = list(dict.fromkeys(owner for owner in owners if owner is not None))
            return
        raise error

    def look_for_successors(self) -> None:
        """Where a primary was lost, learn whether a replica has taken over."""
        if not self._down.keys().isdisjoint(self._primaries):
            self.refresh()

    def client(self, node: Node) -> Redis:
        """The client of one node."""
        if node not in self._clients:
            self._clients[node] = self._connect(*node)
        return self._clients[node]

    def client_for(self, key: bytes) -> Redis:
        """See `Topology.client_for`."""
        return self.client(self.owner(key_slot(key)))

    def owner(self, slot: int) -> Node:
        """The primary that serves a slot, as far as we know; raises ClusterDownError where none does."""
        node = self._owners[slot]
        if node is None:
            raise ClusterDownError(f"no primary serves slot {slot}")
        return node

    def note(self, error: RedisError) -> None:
        """Remember a failure that others get over; raises it where trying again is no use."""
        if not is_transient(error):
            raise error
        self.failure = self.failure or error

    def side_by_side(self, work: Mapping[Node, Callable[[Redis], Result]]) -> dict[Node, Result | RedisError]:
        """Do something on several primaries at once, each in a thread; a failure takes its node's place.

        A node that was lost is not asked again in this sweep: each question would cost a time-out.
        """

        def attempt(node: Node) -> Result | RedisError:
            if node in self._down:
                return self._down[node]
            try:
                return work[node](self.client(node))
            except ResponseError as error:
                return error
            except RedisError as error:
                self._down[node] = error
                return error

        return dict(zip(work, self._threads.map(attempt, work), strict=True))

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """See `Topology.scan`: each primary to its own cursor 0; all anew where slots moved meanwhile."""
        for _round in range(ROUNDS):
            self.refresh()
            before = self._owners
            yield from self._scan_once(pattern)
            self.refresh()
            if self._owners == before:
                return
        self.note(TryAgainError("slots moved during every scan"))

    def _scan_once(self, pattern: bytes) -> Iterator[list[bytes]]:
        if None in self._owners:
            self.note(ClusterDownError("no primary serves some of the slots"))
        cursors = dict.fromkeys(self._primaries, 0)
        while cursors:
            pages = self.side_by_side(
                {node: _page_after(cursor, pattern, self.pace.scan_count) for node, cursor in cursors.items()}
            )
            for node, answer in pages.items():
                if isinstance(answer, RedisError):
                    self.note(answer)
                    del cursors[node]
                    continue
                cursors[node], page = answer
                if cursors[node] == 0:
                    del cursors[node]
                yield page

    def read_each(self, lots: Iterable[list[bytes]]) -> Iterator[tuple[int, dict[bytes, bytes | None]]]:
        """See `Topology.read_each`."""
        return map(self.read, lots)

    def read(self, names: Iterable[bytes]) -> tuple[int, dict[bytes, bytes | None]]:
        """The time of the clock that is furthest behind, and the values; see `Topology.read_each`."""
        names = list(names)
        if not names:
            return 0, {}
        clocks = self.side_by_side(dict.fromkeys(self._primaries, server_time_ms)).values()
        now_ms = min((clock for clock in clocks if isinstance(clock, int)), default=0)
        return now_ms, {name: values[0] for name, values in self.ask("MGET", names).items()}

    def existing(self, names: Iterable[bytes]) -> dict[bytes, bool]:
        """See `Topology.existing`."""
        return {name: bool(count) for name, count in self.ask("EXISTS", names).items()}

    def ask(self, command: str, names: Iterable[bytes]) -> dict[bytes, Any]:
        """Send a command for each of many keys to the primary that serves it; redirections are followed.

        A key whose primary can't answer is left out, and `failure` says why. Nothing is sent twice.
        """
        answers: dict[bytes, Any] = {}
        waiting = list(names)
        for attempt in range(ROUNDS):
            redirected: dict[bytes, RedisError] = {}
            for name, answer in self._ask_once(command, waiting):
                if isinstance(answer, AskError) and not isinstance(answer, MovedError):
                    answer = self._ask_importing(answer, command, name)
                if isinstance(answer, REDIRECTIONS):
                    redirected[name] = answer
                elif isinstance(answer, RedisError):
                    self.note(answer)
                else:
                    answers[name] = answer
            waiting = list(redirected)
            if not waiting:
                break
            self.follow(attempt, redirected.values())
        else:
            self.note(TryAgainError("slots were on the move all the time"))
        return answers

    def follow(self, attempt: int, redirections: Iterable[Exception]) -> None:
        """After redirections: give the slots time to arrive, and learn where they are."""
        time.sleep(PAUSE_S * 2**attempt if attempt else 0)
        self.refresh()
        for redirection in redirections:
            # who moved it knows best; others may not have heard of it yet
            if isinstance(redirection, MovedError) and redirection.host:
                self._owners[redirection.slot_id] = (redirection.host, redirection.port)

    def _ask_once(self, command: str, names: Sequence[bytes]) -> Iterator[tuple[bytes, Any]]:
        by_node: dict[Node, list[bytes]] = defaultdict(list)
        for name in names:
            try:
                by_node[self.owner(key_slot(name))].append(name)
            except ClusterDownError as error:
                yield name, error
        answers = self.side_by_side({node: _pipeline(command, keys) for node, keys in by_node.items()})
        for node, answer in answers.items():
            if isinstance(answer, RedisError):
                answer = [answer] * len(by_node[node])
            yield from zip(by_node[node], answer, strict=True)

    def _ask_importing(self, redirection: AskError, command: str, name: bytes) -> Any:
        """The answer of the node that a single key has moved to, ahead of its slot."""
        node = (redirection.host, redirection.port)
        answer = self.side_by_side({node: _pipeline(command, [name], asking=True)})[node]
        return answer if isinstance(answer, RedisError) else answer[-1]

    def engine(self, make: Callable[[Redis], NodeEngine]) -> Engine:
        """See `Topology.engine`."""
        return ClusterEngine(self, make)

    def __enter__(self) -> Self:
        """See `Topology`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Topology`."""
        self._threads.shutdown()
        for client in self._clients.values():
            client.close()


def _page_after(cursor: int, pattern: bytes, count: int) -> Callable[[Redis], tuple[int, list[bytes]]]:
    command = scan_command(b"%d" % cursor, pattern, count)

    def ask(client: Redis) -> tuple[int, list[bytes]]:
        return cast(tuple[int, list[bytes]], client.execute_command(*command))  # type: ignore[no-untyped-call]

    return ask


def _pipeline(command: str, names: Sequence[bytes], *, asking: bool = False) -> Callable[[Redis], list[Any]]:
    def send(client: Redis) -> list[Any]:
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                if asking:
                    pipe.execute_command("ASKING")  # type: ignore[no-untyped-call]
                pipe.execute_command(command, name)  # type: ignore[no-untyped-call]
            return pipe.execute(raise_on_error=False)

    return send
