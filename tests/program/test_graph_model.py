"""The task graph against a model that recomputes everything from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.errors import DuplicateProducer, GraphCycleError, ParrotError
from parrot_mq.program import Graph, Node
from parrot_mq.types import TaskId, VariableId

variables = st.integers(0, 11).map(lambda number: VariableId(f"v{number}"))
node_shapes = st.tuples(variables, st.lists(variables, max_size=3, unique=True))


class GraphModel(RuleBasedStateMachine):
    """Holds the same nodes as the graph, and which variables are set."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.nodes: dict[VariableId, Node] = {}
        self.waits: dict[VariableId, set[VariableId]] = {}
        self.known: set[VariableId] = set()
        self.num_tasks = 0

    @rule(shapes=st.lists(node_shapes, min_size=1, max_size=4))
    def add(self, shapes: list[tuple[VariableId, list[VariableId]]]) -> None:
        self.num_tasks += 1
        task = TaskId(f"t{self.num_tasks}")
        nodes = [Node(f"{task}.{writes}", task, tuple(reads), writes) for writes, reads in shapes]
        waits, expected = self._add_one_by_one(nodes)
        raised: ParrotError | None = None
        ready: list[Node] = []
        try:
            ready = self.graph.add(nodes, self.known)
        except (DuplicateProducer, GraphCycleError) as error:
            raised = error
        assert type(raised) is expected
        if isinstance(raised, GraphCycleError):
            self._check_cycle(raised.cycle, waits)
        if raised is None:
            assert ready == [node for node in nodes if not waits[node.writes]]
            self.nodes |= {node.writes: node for node in nodes}
            self.waits = waits

    def _add_one_by_one(self, nodes: list[Node]) -> tuple[dict[VariableId, set[VariableId]], type]:
        """What the nodes wait for, up to the first that is refused, and the error that it is refused with."""
        waits = dict(self.waits)
        for node in nodes:
            if node.writes in waits:
                return waits, DuplicateProducer
            waits[node.writes] = set(node.reads) - self.known
            if not _can_finish(waits):
                return waits, GraphCycleError
        return waits, type(None)

    def _check_cycle(self, cycle: list[str], waits: dict[VariableId, set[VariableId]]) -> None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        for read, writes in pairwise(cycle):
            assert read in waits[VariableId(writes)]

    @rule(variable=variables)
    def resolve(self, variable: VariableId) -> None:
        self.known.add(variable)
        waiting = [writes for writes, reads in self.waits.items() if variable in reads]
        for writes in waiting:
            self.waits[writes].discard(variable)
        expected = {writes for writes in waiting if not self.waits[writes]}
        ready = self.graph.resolve(variable)
        assert len(ready) == len(expected)
        assert {node.writes for node in ready} == expected

    @rule(variable=variables)
    def finish(self, variable: VariableId) -> None:
        assert self.graph.finish(variable) == (variable in self.nodes)
        self._remove([variable])

    @rule(variable=variables)
    def fail(self, variable: VariableId) -> None:
        doomed = [variable]
        while new := [w for w, reads in self.waits.items() if w not in doomed and reads & set(doomed)]:
            doomed += new
        # The producer of the variable is doomed only if it waits for itself, which cannot be.
        expected = set(doomed) - {variable}
        failed_before = [variable]
        failed = self.graph.fail(variable)
        for each in failed:
            doomed_reads = self.waits[each.writes] & set(doomed)
            assert doomed_reads <= set(failed_before), "a consumer comes before its producer"
            assert each.failed_read == min(doomed_reads, key=failed_before.index)
            failed_before.append(each.writes)
        assert len(failed) == len(expected)
        assert {each.writes for each in failed} == expected
        self._remove(expected)

    def _remove(self, names: Iterable[VariableId]) -> None:
        for name in names:
            self.nodes.pop(name, None)
            self.waits.pop(name, None)

    @invariant()
    def the_graph_agrees(self) -> None:
        self.graph.check_integrity()
        assert self.graph.unfinished == tuple(self.nodes.values())
        for variable in (VariableId(f"v{number}") for number in range(12)):
            assert self.graph.producer(variable) == self.nodes.get(variable)
            readers = tuple(node for node in self.nodes.values() if variable in node.reads)
            assert self.graph.consumers(variable) == readers
        for name, node in self.nodes.items():
            assert set(self.graph.missing(node)) == self.waits[name]


def _can_finish(waits: dict[VariableId, set[VariableId]]) -> bool:
    """True if there is no cycle: running what waits for no other node, again and again, runs everything."""
    left = {writes: reads & waits.keys() for writes, reads in waits.items()}
    while ready := [writes for writes, reads in left.items() if not reads]:
        for writes in ready:
            del left[writes]
        left = {writes: reads & left.keys() for writes, reads in left.items()}
    return not left


TestGraphModel = GraphModel.TestCase
TestGraphModel.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
