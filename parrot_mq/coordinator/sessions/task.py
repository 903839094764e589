"""A task as a session keeps it: its record, what is planned for its outputs, and when its time is over."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parrot_mq.bus import Delivery
from parrot_mq.coordinator.sessions.planning import plan_task
from parrot_mq.coordinator.sessions.steps import PlannedCall, PlannedTransform, Step
from parrot_mq.errors import DuplicateProducer, ParrotError
from parrot_mq.messages import PromptTask, TaskAddress, TaskRecord, decode, salvage_outputs
from parrot_mq.observability import get_logger, read_trace, use_trace
from parrot_mq.program import Node
from parrot_mq.types import Objective, VariableId

__all__ = ["Deadlines", "Refusal", "Task", "read_task"]

log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Task:
    """A task that is not finished.

    Attributes:
        stored_at: When the server stored it, seconds since 1970.
        steps: What it is made of, by the variable that each fills.
        is_inherited: It was stored before this coordinator began: an earlier one may have let it in.
        unset: Variables of its steps that are not set yet.
    """

    address: TaskAddress
    record: TaskRecord
    stored_at: float
    steps: dict[VariableId, Step]
    unset: set[VariableId]
    is_inherited: bool = False

    @property
    def deadline(self) -> float:
        """When its time is over, seconds since 1970."""
        return self.stored_at + self.record.timeout_s

    @property
    def marks(self) -> dict[VariableId, Objective]:
        """What it says of its outputs."""
        outputs = self.record.outputs.values()
        return {VariableId(each.variable): each.objective for each in outputs if each.objective is not None}

    @property
    def model(self) -> str:
        """Who generates, if it says so."""
        return self.record.model if isinstance(self.record, PromptTask) else ""

    def function_of(self, name: VariableId) -> str:
        """Who makes a variable, for people: a function, or the transforms of an output."""
        match self.steps[name]:
            case PlannedTransform(transforms=transforms):
                return " | ".join(str(each.__struct_config__.tag) for each in transforms)
            case PlannedCall(function=str(function)):
                return function
            case PlannedCall(choices=choices):
                return " or ".join(choices)
            case _:
                return self.record.function if isinstance(self.record.function, str) else ""

    def nodes(self) -> list[Node]:
        """What has to be done, in the order of the steps."""
        return [
            Node(key=name, task=self.address.task, reads=step.reads, writes=name)
            for name, step in self.steps.items()
            if name in self.unset
        ]


class Refusal(NamedTuple):
    """A task that cannot be run: why, and the outputs that are to say so."""

    address: TaskAddress
    outputs: Sequence[VariableId]
    error: ParrotError


def read_task(address: TaskAddress, delivery: Delivery, *, is_inherited: bool = False) -> Task | Refusal:
    """Decode and plan a task; whatever is wrong with it becomes a refusal."""
    try:
        return _plan(address, delivery, is_inherited)
    except ParrotError as error:
        problem = error
    except Exception as error:
        with use_trace(read_trace(delivery.headers)):
            log.exception("task_crashed", session=address.session, task=address.task)
        problem = ParrotError(f"the coordinator cannot handle the task: {type(error).__name__}: {error}")
    return Refusal(address, [VariableId(name) for name in salvage_outputs(delivery.payload)], problem)


def _plan(address: TaskAddress, delivery: Delivery, is_inherited: bool) -> Task:
    record: TaskRecord = decode(delivery.payload, TaskRecord, delivery.headers, default=PromptTask)
    steps: dict[VariableId, Step] = {}
    for step in plan_task(record):
        if step.writes in steps:
            raise DuplicateProducer(variable=step.writes, producer=address.task)
        steps[step.writes] = step
    return Task(address, record, delivery.timestamp, steps, set(steps), is_inherited)


class Deadlines:
    """Whose time is over next, of tasks or of variables. Adding and removing cost O(log n) in how many are there."""

    def __init__(self) -> None:
        self._by_name: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # with entries of those that were removed; never more than as many

    @property
    def next_at(self) -> float | None:
        """Seconds since 1970, at the latest when the first time is over; None if nothing is watched."""
        return self._heap[0][0] if self._heap else None

    def add(self, name: str, deadline: float) -> None:
        """Watch a task or variable, from now on with this deadline."""
        if self._by_name.get(name) != deadline:
            self._by_name[name] = deadline
            heapq.heappush(self._heap, (deadline, name))
            self._tidy()

    def remove(self, name: str) -> None:
        """Watch it no more, if it was watched."""
        self._by_name.pop(name, None)
        self._tidy()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._by_name):
            self._heap = [(deadline, each) for each, deadline in self._by_name.items()]
            heapq.heapify(self._heap)

    def pop_due(self, now: float) -> list[str]:
        """Take out those whose time is over."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            deadline, name = heapq.heappop(self._heap)
            if self._by_name.get(name) == deadline:
                due.append(name)
                del self._by_name[name]
        return due
