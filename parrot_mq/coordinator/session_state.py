"""All that is known of a session; rebuilt from the facts after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field

from parrot_mq.actors import ActorRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator.task import Deadlines, Task
from parrot_mq.errors import DuplicateProducer
from parrot_mq.messages import ErrorInfo, TaskAddress, Value
from parrot_mq.program import Graph, Node
from parrot_mq.types import VariableId

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
    """What a session knows. Plain methods: each changes it as a whole."""

    graph: Graph = field(default_factory=Graph)
    values: dict[VariableId, Value] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    writers: dict[VariableId, Task] = field(default_factory=dict)
    """Outputs that are not set, and the task that is to set each."""
    arrived: dict[TaskAddress, Delivery] = field(default_factory=dict)
    """Tasks that are not entered yet."""
    enqueued: dict[VariableId, Assignment] = field(default_factory=dict)
    homeless: dict[VariableId, Node] = field(default_factory=dict)
    """Ready, but for a model of which nobody knows yet whether it is served."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    _num_characters: int = 0
    _max_characters: int = MAX_KEPT_CHARACTERS

    def enter(self, task: Task) -> tuple[list[Node], list[Node]]:
        """Take in a task.

        Returns:
            Its nodes, and those of them that are ready.

        Raises:
            DuplicateProducer: Another task writes one of its outputs. Nothing has changed.
            GraphCycleError: It would wait for itself. Nothing has changed.
        """
        for name in task.unset:
            if (other := self.writers.get(name)) is not None:
                raise DuplicateProducer(variable=name, producer=other.address.task)
        nodes = task.nodes()
        ready = self.graph.add(nodes, known=self._texts_read_by(nodes))
        self.tasks[task.address.task] = task
        self.writers.update(dict.fromkeys(task.unset, task))
        self.deadlines.add(task.address.task, task.deadline)
        return nodes, ready

    def leave(self, task: Task) -> None:
        """Forget a task whose outputs are all set."""
        self.tasks.pop(task.address.task, None)
        self.deadlines.remove(task.address.task)

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
