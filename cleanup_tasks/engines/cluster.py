"""Either engine on a cluster, where a group's keys and guards lie in many slots and no step spans two.

All guards are looked at anew. Then goes what is in other slots than its group's last key; then, by the engine
and with the guards of that slot, the last keys with all that shares their slots: the heartbeats. Where a part
can't be done, the groups that depend on the same guards stay, so that the next sweep finds them.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence

from redis import Redis
from redis.exceptions import RedisError

from cleanup_tasks.engines.batch import Answer, Batch
from cleanup_tasks.engines.by_slot import BySlot
from cleanup_tasks.engines.engine import Engine
from cleanup_tasks.servers.cluster import ROUNDS, Cluster
from cleanup_tasks.servers.errors import REDIRECTIONS, ScriptingRefused, is_transient, is_wrong_type
from cleanup_tasks.servers.nodes import Node


class ClusterEngine:
    """Takes a batch apart by slots. An `Engine`."""

    #: Batches that it takes at once.
    in_flight = 1

    def __init__(self, cluster: Cluster, make: Callable[[Redis], Engine]) -> None:
        """`make` gives the engine of one primary."""
        self.make = make
        self._cluster = cluster
        self._nodes: dict[Node, Engine] = {}
        self._waiting: deque[Batch] = deque()

    @property
    def pending(self) -> int:
        """See `Engine.pending`."""
        return len(self._waiting)

    def open(self) -> None:
        """See `Engine.open`: on each primary; one that is lost is left to `receive`."""
        for node in self._cluster.primaries:
            try:
                self._engine(node).open()
            except RedisError as error:
                self._lose(node, error)
                self._cluster.note(error)

    def send(self, batches: Sequence[Batch]) -> None:
        """See `Engine.send`; all the work is done by `receive`."""
        if not self._nodes:
            self.open()
        self._waiting.extend(batches)

    def receive(self) -> tuple[Batch, Answer]:
        """See `Engine.receive`."""
        batch = self._waiting.popleft()
        self._cluster.look_for_successors()
        work = BySlot(batch, self._cluster.slot_of)
        self._look(work)
        self._delete_apart(work)
        self._delete_together(work)
        return batch, work.answer()

    def close(self) -> None:
        """See `Engine.close`."""
        self._waiting.clear()
        for node in list(self._nodes):
            self._nodes.pop(node).close()

    def _look(self, work: BySlot) -> None:
        """Keep the groups of which a guard has changed, and give up those that can't be compared."""
        batch = work.batch
        if 0 < self._cluster.now_ms() < batch.judged_at_ms:
            work.fail(range(len(batch.subjects)))
            return
        answers = self._cluster.ask(batch.questions())
        unknown = {
            number
            for number, answer in zip(batch.numbers(), answers, strict=True)
            if isinstance(answer, RedisError) and not is_wrong_type(answer) and self._cluster.failed(answer)
        }
        work.keep(batch.kept(batch.changed(answers) - unknown))
        work.fail(batch.kept(unknown))

    def _delete_apart(self, work: BySlot) -> None:
        """Delete what is in other slots than the step of its group."""
        command = "EXISTS" if work.batch.dry_run else "UNLINK"
        doomed, groups = work.apart()
        for number, answer in zip(groups, self._cluster.ask([(command, key) for key in doomed]), strict=True):
            if isinstance(answer, RedisError):
                work.fail([number])
                self._note(answer, work)
            else:
                work.deleted += answer

    def _delete_together(self, work: BySlot) -> None:
        """Have the engine delete what shares a slot with its guards."""
        attempt = 0
        while steps := work.next_steps():
            redirections: list[Exception] = []
            for slot, answer in self._each_step(steps):
                if isinstance(answer, Answer):
                    work.add(steps[slot], answer)
                elif isinstance(answer, REDIRECTIONS) and attempt < ROUNDS:
                    redirections.append(answer)
                else:
                    work.fail(steps[slot].subjects)
                    self._note(answer, work)
            if redirections:
                self._cluster.follow(attempt, redirections)
                attempt += 1

    def _each_step(self, steps: dict[int, Batch]) -> Iterator[tuple[int, Answer | Exception]]:
        """What became of the step of each slot, the primaries side by side."""
        by_node: dict[Node, list[int]] = defaultdict(list)
        for slot in steps:
            try:
                by_node[self._cluster.owner(slot)].append(slot)
            except RedisError as error:
                yield slot, error
        while by_node:
            sent: dict[Node, list[int]] = {}
            for node, slots in list(by_node.items()):
                try:
                    engine = self._engine(node)
                    now, later = slots[: engine.in_flight], slots[engine.in_flight :]
                    engine.send([steps[slot] for slot in now])
                except (RedisError, ScriptingRefused) as error:
                    self._lose(node, error)
                    yield from ((slot, error) for slot in slots)
                    del by_node[node]
                    continue
                sent[node], by_node[node] = now, later
                if not later:
                    del by_node[node]
            for node, slots in sent.items():
                for slot in slots:
                    yield slot, self._answer_of(node)

    def _answer_of(self, node: Node) -> Answer | Exception:
        try:
            return self._engine(node).receive()[1]
        except (RedisError, ScriptingRefused) as error:
            self._lose(node, error)
            return error

    def _engine(self, node: Node) -> Engine:
        if node in self._cluster.nodes.down:
            raise self._cluster.nodes.down[node]
        if node not in self._nodes:
            self._nodes[node] = self.make(self._cluster.nodes.client(node))
        return self._nodes[node]

    def _lose(self, node: Node, error: Exception) -> None:
        if isinstance(error, RedisError):
            self._cluster.nodes.lose(node, error)
        if node in self._cluster.nodes.down and node in self._nodes:
            self._nodes.pop(node).close()

    def _note(self, error: Exception, work: BySlot) -> None:
        if isinstance(error, RedisError) and is_transient(error):
            self._cluster.note(error)
        else:
            work.error = work.error or error
