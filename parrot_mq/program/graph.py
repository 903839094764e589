"""The task graph of one session: who writes a variable, who reads it, who can run.

Nodes are generations; variables join them. The graph holds the unfinished nodes only. Adding, resolving and finishing a
node cost as much as it has reads and readers, so a session of any length costs O(1) per edge.

Source: Parrot, OSDI'24, section 4.2 (GetProducer, GetConsumers) and 5.1 (the graph executor).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parrot_mq.errors import DuplicateProducer, GraphCycleError
from parrot_mq.program.ranks import Ranks
from parrot_mq.types import TaskId, VariableId

__all__ = ["FailedNode", "Graph", "Node"]


@dataclass(frozen=True, slots=True)
class Node:
    """One generation.

    Attributes:
        key: Names the generation everywhere.
        task: The task it is part of.
        reads: Variables that it needs, each once.
        writes: The variable that it sets; no other node of the session writes it.
    """

    key: str
    task: TaskId
    reads: tuple[VariableId, ...]
    writes: VariableId


class FailedNode(NamedTuple):
    """A node that can never run, and the first of its reads that failed."""

    node: Node
    failed_read: VariableId

    @property
    def writes(self) -> VariableId:
        """The variable that will not be set."""
        return self.node.writes


class Graph:
    """The unfinished nodes of a session."""

    def __init__(self) -> None:
        self._producers: dict[VariableId, Node] = {}
        self._consumers: dict[VariableId, dict[VariableId, Node]] = {}
        # Which consumers still wait for a variable: a part of _consumers. Nodes are named by what they write.
        self._waiting: dict[VariableId, dict[VariableId, Node]] = {}
        self._num_missing: dict[VariableId, int] = {}
        self._ranks = Ranks(dependents=self._dependents, dependencies=self._dependencies)

    def __len__(self) -> int:
        return len(self._producers)

    @property
    def unfinished(self) -> tuple[Node, ...]:
        """All nodes, in the order in which they were added."""
        return tuple(self._producers.values())

    def producer(self, variable: VariableId) -> Node | None:
        """The unfinished node that writes a variable."""
        return self._producers.get(variable)

    def consumers(self, variable: VariableId) -> tuple[Node, ...]:
        """The unfinished nodes that read a variable, set or not, in the order in which they were added."""
        return tuple(self._consumers.get(variable, {}).values())

    def missing(self, node: Node) -> tuple[VariableId, ...]:
        """The reads that a node still waits for; empty if it is ready."""
        return tuple(variable for variable in node.reads if node.writes in self._waiting.get(variable, ()))

    def num_missing(self, variable: VariableId) -> int:
        """How many reads the unfinished node that writes a variable still waits for; found at once.

        Raises:
            KeyError: No unfinished node writes it.
        """
        return self._num_missing[variable]

    def rank(self, variable: VariableId) -> int:
        """The place of an unfinished node in a topological order: above all nodes that it waits for. It may change.

        Raises:
            KeyError: No unfinished node writes the variable.
        """
        return self._ranks[variable]

    def add(self, nodes: Sequence[Node], known: Container[VariableId]) -> list[Node]:
        """Add the nodes of a task, all or none.

        Args:
            nodes: New nodes, in any order.
            known: The variables that are set. A node does not wait for them. It does wait for a variable that has
                failed, until `fail` is called for it.

        Returns:
            Those of the new nodes that are ready now.

        Raises:
            DuplicateProducer: A variable has an unfinished producer already. The graph is unchanged.
            GraphCycleError: A node would wait for its own output. The graph is unchanged.
        """
        added: list[Node] = []
        try:
            for node in nodes:
                self._check_sole_producer(node)
                self._insert(node, known)
                added.append(node)
                self._ranks.insert(node.writes)
        except (DuplicateProducer, GraphCycleError):
            for node in reversed(added):
                self.finish(node.writes)
            raise
        return [node for node in added if self._num_missing[node.writes] == 0]

    def resolve(self, variable: VariableId) -> list[Node]:
        """A variable is set: nobody waits for it any more. Running it twice changes nothing.

        Returns:
            The nodes that became ready by it.
        """
        ready: list[Node] = []
        for node in self._waiting.pop(variable, {}).values():
            self._num_missing[node.writes] -= 1
            if self._num_missing[node.writes] == 0:
                ready.append(node)
        return ready

    def fail(self, variable: VariableId) -> list[FailedNode]:
        """A variable will never have a value: remove all nodes that wait for it, directly or not.

        The producer of the variable itself stays until `finish`. Running it twice changes nothing.

        Returns:
            The removed nodes, each once, producers before their consumers.
        """
        num_left = self._count_doomed_reads(variable)
        failed_reads: dict[VariableId, VariableId] = {}
        failed: list[FailedNode] = []
        queue = deque([variable])
        while queue:
            read = queue.popleft()
            for writes, node in self._waiting.get(read, {}).items():
                failed_reads.setdefault(writes, read)
                num_left[writes] -= 1
                if num_left[writes] == 0:
                    failed.append(FailedNode(node, failed_reads[writes]))
                    queue.append(writes)
        for node, _ in failed:
            self.finish(node.writes)
        return failed

    def finish(self, writes: VariableId) -> bool:
        """The node that writes a variable is done or given up: it leaves the graph. Its consumers are not told.

        Returns:
            False if no unfinished node writes it.
        """
        node = self._producers.pop(writes, None)
        if node is None:
            return False
        del self._num_missing[writes]
        self._ranks.remove(writes)
        for variable in node.reads:
            _discard(self._consumers, variable, writes)
            _discard(self._waiting, variable, writes)
        return True

    def check_integrity(self) -> None:
        """Prove that the indices agree with the nodes; for tests and idle moments."""
        consumers: dict[VariableId, set[VariableId]] = {}
        for variable, node in self._producers.items():
            assert node.writes == variable
            assert self._num_missing[variable] == len(self.missing(node))
            for read in node.reads:
                consumers.setdefault(read, set()).add(variable)
            for dependency in self._dependencies(variable):
                assert self._ranks[dependency] < self._ranks[variable], f"{variable} is not above {dependency}"
        assert self._num_missing.keys() == self._producers.keys()
        assert len(self._ranks) == len(self._producers)
        assert {variable: set(readers) for variable, readers in self._consumers.items()} == consumers
        for variable, waiting in self._waiting.items():
            assert waiting, f"an empty index entry of {variable} is left over"
            assert waiting.keys() <= self._consumers[variable].keys()

    def _check_sole_producer(self, node: Node) -> None:
        if other := self._producers.get(node.writes):
            raise DuplicateProducer(variable=node.writes, producer=other.task)

    def _insert(self, node: Node, known: Container[VariableId]) -> None:
        assert len(set(node.reads)) == len(node.reads), f"{node.key} reads a variable twice"
        self._producers[node.writes] = node
        num_missing = 0
        for variable in node.reads:
            self._consumers.setdefault(variable, {})[node.writes] = node
            if variable not in known:
                self._waiting.setdefault(variable, {})[node.writes] = node
                num_missing += 1
        self._num_missing[node.writes] = num_missing

    def _dependents(self, variable: VariableId) -> Iterator[VariableId]:
        """What is written by the nodes that wait for a variable."""
        return iter(self._waiting.get(variable, ()))

    def _dependencies(self, variable: VariableId) -> Iterator[VariableId]:
        """What the producer of a variable waits for and another node will write."""
        return (read for read in self.missing(self._producers[variable]) if read in self._producers)

    def _count_doomed_reads(self, variable: VariableId) -> dict[VariableId, int]:
        """For every node that waits for a variable, directly or not: how many of its reads will never be set."""
        num_doomed: dict[VariableId, int] = {}
        stack = [variable]
        while stack:
            for writes in self._dependents(stack.pop()):
                if writes not in num_doomed:
                    stack.append(writes)
                num_doomed[writes] = num_doomed.get(writes, 0) + 1
        return num_doomed


def _discard(index: dict[VariableId, dict[VariableId, Node]], variable: VariableId, writes: VariableId) -> None:
    entry = index.get(variable)
    if entry is not None:
        entry.pop(writes, None)
        if not entry:
            del index[variable]
