"""Deduction against the rule, written down without regard to what it costs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.errors import DuplicateProducer, GraphCycleError
from parrot_mq.program import Graph, Node, Objectives, Standing
from parrot_mq.types import Objective, TaskId, VariableId

MAX_STAGE = 16

variables = st.integers(0, 13).map(lambda number: VariableId(f"v{number}"))
node_shapes = st.tuples(variables, st.lists(variables, max_size=4, unique=True))
marks = st.builds(
    Objective,
    kind=st.sampled_from(["latency", "throughput"]),
    tpot_ms=st.sampled_from([None, None, 25.0]),
    deadline_s=st.sampled_from([None, None, 1.0, 2.0, 3.0]),
)


@dataclass
class Rule:
    """What is wanted of the nodes of a graph.

    Attributes:
        reads: What each node reads, by what it writes.
        marks: What was said of variables.
        stored_at: When the task of each node was stored.
    """

    reads: Mapping[VariableId, tuple[VariableId, ...]]
    marks: Mapping[VariableId, Objective]
    stored_at: Mapping[VariableId, float]
    _stages: dict[VariableId, Hashable] = field(default_factory=dict)

    @cached_property
    def readers(self) -> dict[VariableId, list[VariableId]]:
        """What is made of each variable."""
        return {each: [writes for writes, reads in self.reads.items() if each in reads] for each in self.reads}

    def is_awaited(self, variable: VariableId) -> bool:
        """Whether somebody waits for this very variable, or will when it is there."""
        mark = self.marks.get(variable)
        return mark.kind == "latency" if mark is not None else not self.readers[variable]

    def is_urgent(self, variable: VariableId) -> bool:
        """Whether somebody waits for it or for what is made of it."""
        return self.is_awaited(variable) or any(map(self.is_urgent, self.readers[variable]))

    def height(self, variable: VariableId) -> int:
        """Steps to the end."""
        return max((self.height(each) + 1 for each in self.readers[variable]), default=0)

    def due_at(self, variable: VariableId) -> float | None:
        """The first time that counts for it."""
        mark = self.marks.get(variable)
        own = [self.stored_at[variable] + mark.deadline_s] if mark is not None and mark.deadline_s else []
        inherited = [at for each in self.readers[variable] if (at := self.due_at(each)) is not None]
        return min([*own, *inherited], default=None)

    def stage(self, variable: VariableId) -> Hashable:
        """Equal for nodes of one stage."""
        if variable not in self._stages:
            readers = self.readers[variable]
            mark = self.marks.get(variable)
            is_own = not readers or (mark is not None and mark.kind == "latency")
            self._stages[variable] = variable if is_own else frozenset(map(self.stage, readers))
        return self._stages[variable]

    def check(self, standings: Mapping[VariableId, Standing]) -> None:
        """Assert that the nodes stand as they should."""
        assert standings.keys() == self.reads.keys()
        groups: dict[str, Hashable] = {}
        for variable, standing in standings.items():
            self._check_one(variable, standing)
            if standing.group:
                assert groups.setdefault(standing.group, self.stage(variable)) == self.stage(variable)
        assert len(set(groups.values())) == len(groups), "a stage has two names"

    def _check_one(self, variable: VariableId, standing: Standing) -> None:
        size = sum(self.stage(each) == self.stage(variable) for each in self.reads)
        kind = "latency" if self.is_urgent(variable) else "throughput"
        mark = self.marks.get(variable, Objective())
        own = Objective(
            kind="throughput" if size > 1 else "latency" if self.is_urgent(variable) else "throughput",
            ttft_ms=mark.ttft_ms,
            tpot_ms=mark.tpot_ms,
            deadline_s=mark.deadline_s,
        )
        assert standing.objective == own
        assert standing.is_urgent == self.is_urgent(variable)
        assert standing.stage == _rough(min(self.height(variable), MAX_STAGE))
        assert standing.due_at == self.due_at(variable)
        assert (standing.group != "") == (size > 1)
        assert standing.group_kind == (kind if size > 1 else "")
        assert standing.group_size == size if size <= 8 else size / 2 < standing.group_size < size * 2


def _rough(height: int) -> int:
    return height if height < 4 else max(power for power in (4, 8, 16) if power <= height)


class ObjectivesModel(RuleBasedStateMachine):
    """A session's graph with the marks of its variables."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.objectives = Objectives(self.graph, "t.s")
        self.known: set[VariableId] = set()
        self.marks: dict[VariableId, Objective] = {}
        self.stored_at: dict[VariableId, float] = {}
        self.seen: dict[VariableId, Standing] = {}
        self.is_deduced = True
        self.num_tasks = 0

    @rule(shapes=st.lists(node_shapes, min_size=1, max_size=6), mark=st.none() | marks, index=st.integers(0, 5))
    def add(self, shapes: list[tuple[VariableId, list[VariableId]]], mark: Objective | None, index: int) -> None:
        task = TaskId(f"t{self.num_tasks}")
        self.num_tasks += 1
        nodes = [Node(writes, task, tuple(reads), writes) for writes, reads in shapes if writes not in self.known]
        try:
            self.graph.add(nodes, self.known)
        except (DuplicateProducer, GraphCycleError):
            return
        said = {nodes[index].writes: mark} if mark is not None and index < len(nodes) else {}
        self.objectives.add(nodes, stored_at=float(self.num_tasks), marks=said)
        self.marks |= said
        self.stored_at |= {node.writes: float(self.num_tasks) for node in nodes}
        self.is_deduced = False

    @rule(variable=variables)
    def set(self, variable: VariableId) -> None:
        self.graph.finish(variable)
        self._remove(variable)
        self.graph.resolve(variable)
        self.known.add(variable)

    @rule(variable=variables)
    def fail(self, variable: VariableId) -> None:
        self.graph.finish(variable)
        self._remove(variable)
        for node, _ in self.graph.fail(variable):
            self._remove(node.writes)

    def _remove(self, variable: VariableId) -> None:
        self.objectives.remove(variable)
        if self.stored_at.pop(variable, None) is not None:
            self.marks.pop(variable, None)
        self.seen.pop(variable, None)
        self.is_deduced = False

    @rule(variable=variables, objective=marks, only_unmarked=st.booleans())
    def mark(self, variable: VariableId, objective: Objective, only_unmarked: bool) -> None:
        self.objectives.mark(variable, objective, only_unmarked=only_unmarked)
        if not (only_unmarked and variable in self.marks):
            self.marks[variable] = objective
        self.is_deduced = False

    @rule()
    def deduce(self) -> None:
        told = self.objectives.deduce()
        standings = {node.writes: self.objectives.standing(node.writes) for node in self.graph.unfinished}
        others = {each: standings[each] for each, before in self.seen.items() if before != standings[each]}
        assert told == others, "told is what has changed, and nothing else"
        self.seen = standings
        self.is_deduced = True

    @invariant()
    def all_is_as_the_rule_says(self) -> None:
        if self.is_deduced:
            self.objectives.check_integrity()
            reads = {node.writes: node.reads for node in self.graph.unfinished}
            Rule(reads, self.marks, self.stored_at).check(self.seen)


TestObjectivesModel = ObjectivesModel.TestCase
TestObjectivesModel.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
