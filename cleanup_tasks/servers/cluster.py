"""A Redis Cluster: which primary serves which slot, and commands for all of them side by side."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from cleanup_tasks.servers.client import time_ms
from cleanup_tasks.servers.errors import REDIRECTIONS, is_transient
from cleanup_tasks.servers.nodes import Node, Nodes
from cleanup_tasks.servers.pages import next_count, scan_command
from cleanup_tasks.servers.pipelining import MANY_SLOTS, Command, Context
from cleanup_tasks.servers.restarts import Info
from cleanup_tasks.servers.values import KeyCommand, first_reads, read_on

SLOTS = 16_384
#: How often a command follows its slot to another primary, or waits for it, before it is given up.
ROUNDS = 6
#: Seconds of the first wait for a slot that moves; each further wait is twice as long.
PAUSE_S = 0.05

#: Keys of which the slot is remembered: those of a batch, with what it is compared with.
REMEMBERED_SLOTS = 50_000


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """The primaries of a cluster. A `Topology`.

    redis-py's own cluster client repeats commands whose answer was lost, and has no transaction for the
    Python engine; what it knows of slots and redirections is used here.
    """

    def __init__(self, seeds: Iterable[Node], connect: Callable[[str, int], Redis]) -> None:
        """`seeds` are some of its nodes; `connect` makes a client for any."""
        self._seeds = list(seeds)
        self.nodes = Nodes(connect)
        self._owners: list[Node | None] = [None] * SLOTS
        #: The slot of a key; to look it up takes a fifth of the time.
        self.slot_of: Callable[[bytes], int] = lru_cache(REMEMBERED_SLOTS)(key_slot)
        self.primaries: list[Node] = []
        self.failure: RedisError | None = None
        self.limits = MANY_SLOTS

    def connect(self) -> None:
        """See `Topology.connect`."""
        self.refresh()

    def is_replica(self) -> bool:
        """See `Topology.is_replica`: primaries alone are asked."""
        return False

    def infos(self) -> list[Info]:
        """See `Topology.infos`."""
        return self.nodes.first_infos(self.primaries)

    def refresh(self) -> None:
        """Learn anew which primary serves which slot; raises what the last node said if none answers."""
        error: RedisError = ClusterDownError("no node is known")
        nodes = dict.fromkeys([*self.primaries, *self._seeds])
        for node in sorted(nodes, key=self.nodes.down.__contains__):
            try:
                ranges = self.nodes.slots(node)
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
            self.primaries = list(dict.fromkeys(owner for owner in owners if owner is not None))
            self.nodes.note_primaries(ranges)
            return
        raise error

    def look_for_successors(self) -> None:
        """Where a primary was lost, learn whether a replica has taken over."""
        if not self.nodes.down.keys().isdisjoint(self.primaries):
            self.refresh()

    def client_for(self, key: bytes) -> Redis:
        """See `Topology.client_for`."""
        return self.nodes.client(self.owner(self.slot_of(key)))

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
        if isinstance(error, REDIRECTIONS):
            error = TryAgainError("slots were on the move all the time")
        self.failure = self.failure or error

    def failed(self, answer: Any) -> bool:
        """Whether this is no answer but an error, which is noted then."""
        if isinstance(answer, RedisError):
            self.note(answer)
            return True
        return False

    def check_still_primary(self) -> None:
        """See `Topology.check_still_primary`."""
        self.nodes.check_still_primaries(self.primaries)

    def size(self) -> int:
        """See `Topology.size`."""
        try:
            return sum(self.nodes.client(node).dbsize() for node in self.primaries)
        except RedisError:
            return 0

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
        count = most = self.limits.scan_count
        sent = self.nodes.send({node: [scan_command(b"0", pattern, count)] for node in self.primaries})
        try:
            while sent:
                pages: list[list[bytes]] = []
                further: dict[Node, bytes] = {}
                for node, answers in self.nodes.receive(sent).items():
                    answer: Any = answers if isinstance(answers, RedisError) else answers[0]
                    if self.failed(answer):
                        continue
                    cursor, page = answer
                    pages.append(page)
                    if cursor != b"0":
                        further[node] = cursor
                count = min((next_count(count, page, most) for page in pages), default=count)
                # the next pages come while these are worked on
                sent = self.nodes.send(
                    {node: [scan_command(cursor, pattern, count)] for node, cursor in further.items()}
                )
                yield from pages
        finally:
            self.nodes.abandon(sent)

    def read(
        self, lots: Iterable[tuple[Context, list[bytes]]]
    ) -> Iterator[tuple[Context, int, dict[bytes, bytes | None]]]:
        """See `Topology.read`; the time is that of the clock that is furthest behind."""
        for context, names in lots:
            now_ms = self.now_ms()
            values = self.ask(first_reads(names))
            read_on(names, values, self.ask)
            read = zip(names, values, strict=True)
            yield context, now_ms, {name: value for name, value in read if not self.failed(value)}

    def now_ms(self) -> int:
        """The time of the primary's clock that is furthest behind, in ms; 0 where none can be asked."""
        clocks = self.nodes.ask({node: [("TIME",)] for node in self.primaries}).values()
        times = [answers[0] for answers in clocks if not isinstance(answers, RedisError)]
        return min((time_ms(answer) for answer in times if not isinstance(answer, RedisError)), default=0)

    def existing(self, names: Iterable[bytes]) -> set[bytes]:
        """See `Topology.existing`."""
        names = list(names)
        answers = zip(names, self.ask([("EXISTS", name) for name in names]), strict=True)
        return {name for name, answer in answers if self.failed(answer) or answer}

    def ask(self, commands: Sequence[KeyCommand]) -> list[Any]:
        """Send each command to the primary that serves its key; redirections are followed.

        Returns the answers; where there is none, the error. What may have been done is not sent again.
        """
        answers: list[Any] = [None] * len(commands)
        waiting: Sequence[int] = range(len(commands))
        for attempt in range(ROUNDS):
            self._ask_once(commands, waiting, answers)
            waiting = [number for number in waiting if isinstance(answers[number], REDIRECTIONS)]
            elsewhere = [answers[number] for number in waiting if type(answers[number]) is not AskError]
            if elsewhere:
                self.follow(attempt, elsewhere)
            elif not waiting:
                break
        return answers

    def _ask_once(self, commands: Sequence[KeyCommand], numbers: Iterable[int], answers: list[Any]) -> None:
        """Put the answers to the commands with these numbers in their places."""
        asked: dict[Node, list[int]] = defaultdict(list)
        sent: dict[Node, list[Command]] = defaultdict(list)
        owners, slot_of = self._owners, self.slot_of
        for number in numbers:
            command = commands[number]
            node = owners[slot_of(command[1])]
            if type(answers[number]) is AskError:  # this key has moved to another node, ahead of its slot
                node = answers[number].host, answers[number].port
                asked[node].append(number)
                sent[node].append(("ASKING",))
            if node is None:
                answers[number] = ClusterDownError(f"no primary serves slot {slot_of(command[1])}")
            else:
                asked[node].append(number)
                sent[node].append(command)
        for node, answer in self.nodes.ask(sent).items():
            each = repeat(answer) if isinstance(answer, RedisError) else answer
            for number, its_answer in zip(asked[node], each, strict=False):  # that of ASKING is overwritten
                answers[number] = its_answer

    def follow(self, attempt: int, redirections: Iterable[Exception]) -> None:
        """After redirections: give the slots time to arrive, and learn where they are."""
        time.sleep(PAUSE_S * 2**attempt if attempt else 0)
        with contextlib.suppress(RedisError):  # whoever can't be asked will say so when it matters
            self.refresh()
        for redirection in redirections:
            # who moved it knows best; others may not have heard of it yet
            if isinstance(redirection, MovedError) and redirection.host:
                self._owners[redirection.slot_id] = (redirection.host, redirection.port)

    def __exit__(self, *_error: object) -> None:
        """See `Topology`."""
        self.nodes.close()
