"""All that is known of a session; rebuilt from the facts after a restart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from parrot_mq.actors import ActorRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator.sessions.steps import PlannedMap, Step
from parrot_mq.coordinator.sessions.task import Deadlines, Task
from parrot_mq.errors import DuplicateProducer
from parrot_mq.messages import ErrorInfo, TaskAddress, Value
from parrot_mq.program import FailedNode, Graph, Node, Objectives
from parrot_mq.types import Objective, VariableId

__all__ = ["Assignment", "SessionState"]

MAX_KEPT_CHARACTERS = 16 * 1024 * 1024
"""Values beyond this are forgotten as soon as no unfinished task reads them; a task that comes later looks them up."""
_ENTRY_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a ready generation was enqueued, and by which key."""

    dispatcher: ActorRef
    key: str


@dataclass(slots=True)
class SessionState:
    """What a session knows. Plain methods: each changes it as a whole.

    Attributes:
        name: `tenant.session`.
        deadlines: Of tasks.
        expiries: Of outputs whose own marks say when they are of no use any more.
    """

    name: str = ""
    graph: Graph = field(default_factory=Graph)
    objectives: Objectives = field(init=False)
    values: dict[VariableId, Value] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    writers: dict[VariableId, Task] = field(default_factory=dict)
    """Variables that are not set, and the task that is to set each."""
    arrived: dict[TaskAddress, Delivery] = field(default_factory=dict)
    """Tasks that are not entered yet."""
    enqueued: dict[VariableId, Assignment] = field(default_factory=dict)
    homeless: dict[VariableId, Node] = field(default_factory=dict)
    """Ready, but for a model of which nobody knows yet whether it is served."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    expiries: Deadlines = field(default_factory=Deadlines)
    _num_characters: int = 0
    _max_characters: int = MAX_KEPT_CHARACTERS

    def __post_init__(self) -> None:
        self.objectives = Objectives(self.graph, self.name)

    @property
    def next_deadline(self) -> float | None:
        """Seconds since 1970, at the latest when the first time is over; None if nothing is watched."""
        return min((at for at in (self.deadlines.next_at, self.expiries.next_at) if at is not None), default=None)

    def enter(self, task: Task) -> list[Node]:
        """Take in a task.

        Returns:
            Its nodes.

        Raises:
            DuplicateProducer: Another task writes one of its outputs. Nothing has changed.
            GraphCycleError: It would wait for itself. Nothing has changed.
        """
        for name in task.unset:
            self._check_sole_writer(name)
        nodes = task.nodes()
        self.graph.add(nodes, known=self._texts_read_by(nodes))
        self._add(task, nodes, task.marks)
        self.tasks[task.address.task] = task
        self.deadlines.add(task.address.task, task.deadline)
        return nodes

    def expand(self, task: Task, steps: Iterable[Step]) -> list[Node]:
        """Put the steps that make and gather items in place of the map that stood for them.

        Returns:
            The new nodes.

        Raises:
            DuplicateProducer: Another task writes one of the items. The graph has lost the map.
            GraphCycleError: An item would wait for itself. The graph has lost the map.
        """
        expanded = {step.writes: step for step in steps}
        marks = {}
        for name in [name for name, step in task.steps.items() if isinstance(step, PlannedMap)]:
            if (mark := self.objectives.mark_of(name)) is not None:
                marks[name] = mark
            self.finish(name)
        for name in expanded.keys() - task.steps.keys():
            self._check_sole_writer(name)
        task.unset |= {name for name in expanded.keys() - task.steps.keys() if name not in self.values}
        task.steps |= expanded
        nodes = [node for node in task.nodes() if node.writes in expanded]
        self.graph.add(nodes, known=self._texts_read_by(nodes))
        self._add(task, nodes, marks)
        return nodes

    def _check_sole_writer(self, name: VariableId) -> None:
        if (other := self.writers.get(name)) is not None:
            raise DuplicateProducer(variable=name, producer=other.address.task)

    def _add(self, task: Task, nodes: list[Node], marks: Mapping[VariableId, Objective]) -> None:
        """The graph has taken in nodes of a task."""
        self.objectives.add(nodes, stored_at=task.stored_at, marks=marks)
        for node in nodes:
            self.writers[node.writes] = task
            self.watch(node.writes)

    def finish(self, variable: VariableId) -> None:
        """Nobody has to generate a variable any more."""
        self.graph.finish(variable)
        self._forget_node(variable)

    def fail(self, variable: VariableId) -> list[FailedNode]:
        """A variable will never have a text; returns the generations that can never run, which are forgotten."""
        failed = self.graph.fail(variable)
        for node, _ in failed:
            self._forget_node(node.writes)
        return failed

    def _forget_node(self, variable: VariableId) -> None:
        self.objectives.remove(variable)
        self.expiries.remove(variable)
        self.homeless.pop(variable, None)

    def leave(self, task: Task) -> None:
        """Forget a task whose outputs are all set."""
        self.tasks.pop(task.address.task, None)
        self.deadlines.remove(task.address.task)

    def mark(self, variable: VariableId, objective: Objective, *, only_unmarked: bool) -> None:
        """Say what is wanted of a variable; of one that is set, nothing."""
        if variable not in self.values:
            self.objectives.mark(variable, objective, only_unmarked=only_unmarked)
            self.watch(variable)

    def watch(self, variable: VariableId) -> None:
        """Keep in mind when a variable that an unfinished task writes is of no use any more."""
        if self.graph.producer(variable) is None:
            return
        expires_at = self.objectives.expires_at(variable)
        if expires_at is None:
            self.expiries.remove(variable)
        else:
            self.expiries.add(variable, expires_at)

    def _texts_read_by(self, nodes: list[Node]) -> set[VariableId]:
        reads = {name for node in nodes for name in node.reads}
        return {name for name in reads if not isinstance(self.values.get(name), ErrorInfo | None)}

    def store(self, variable: VariableId, value: Value) -> None:
        """Remember that a variable is set."""
        self.values[variable] = value
        self._num_characters += _size(value)

    def forget_values(self) -> bool:
        """Forget the values that no unfinished task reads, if there are many; returns whether any went."""
        if self._num_characters <= self._max_characters:
            return False
        self.values = {name: value for name, value in self.values.items() if self.graph.consumers(name)}
        self._num_characters = sum(map(_size, self.values.values()))
        self._max_characters = max(MAX_KEPT_CHARACTERS, 2 * self._num_characters)
        return True


def _size(value: Value) -> int:
    return _ENTRY_CHARACTERS + (len(value) if isinstance(value, str) else 0)
