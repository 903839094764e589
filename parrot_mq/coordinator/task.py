"""A task as a session keeps it: its record, what is planned for its outputs, and when its time is over."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parrot_mq.bus import Delivery
from parrot_mq.coordinator.ready import PlannedGeneration, plan_task
from parrot_mq.errors import DuplicateProducer, ParrotError
from parrot_mq.messages import PromptTask, TaskAddress, decode, salvage_outputs
from parrot_mq.observability import get_logger
from parrot_mq.program import Node
from parrot_mq.types import VariableId

__all__ = ["Deadlines", "Refusal", "Task", "read_task"]

log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Task:
    """A task that is not finished."""

    address: TaskAddress
    record: PromptTask
    deadline: float
    generations: dict[VariableId, PlannedGeneration]
    unset: set[VariableId]
    """Outputs that are not set yet."""

    def nodes(self) -> list[Node]:
        """What has to be generated, in the order of the template."""
        return [
            Node(key=name, task=self.address.task, reads=planned.reads, writes=name)
            for name, planned in self.generations.items()
            if name in self.unset
        ]


class Refusal(NamedTuple):
    """A task that cannot be run: why, and the outputs that are to say so."""

    address: TaskAddress
    outputs: Sequence[VariableId]
    error: ParrotError


def read_task(address: TaskAddress, delivery: Delivery) -> Task | Refusal:
    """Decode and plan a task; whatever is wrong with it becomes a refusal."""
    try:
        return _plan(address, delivery)
    except ParrotError as error:
        problem = error
    except Exception as error:
        log.exception("task_crashed", session=address.session, task=address.task)
        problem = ParrotError(f"the coordinator cannot handle the task: {type(error).__name__}: {error}")
    return Refusal(address, [VariableId(name) for name in salvage_outputs(delivery.payload)], problem)


def _plan(address: TaskAddress, delivery: Delivery) -> Task:
    record = decode(delivery.payload, PromptTask, delivery.headers)
    generations = {planned.writes: planned for planned in plan_task(record)}
    if len(generations) < len(record.outputs):
        raise DuplicateProducer(variable=_first_repeated(record), producer=address.task)
    return Task(address, record, delivery.timestamp + record.timeout_s, generations, set(generations))


def _first_repeated(record: PromptTask) -> str:
    names = [output.variable for output in record.outputs.values()]
    return next(name for name in names if names.count(name) > 1)


class Deadlines:
    """Which task's time is over next. Adding and removing cost O(log n) in the number of tasks that are there."""

    def __init__(self) -> None:
        self._by_task: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # with entries of tasks that were removed; never more than as many

    @property
    def next_at(self) -> float | None:
        """Seconds since 1970, at the latest when the first time is over; None if nothing is watched."""
        return self._heap[0][0] if self._heap else None

    def add(self, task: str, deadline: float) -> None:
        """Watch a task."""
        self._by_task[task] = deadline
        heapq.heappush(self._heap, (deadline, task))

    def remove(self, task: str) -> None:
        """Watch a task no more, if it was watched."""
        self._by_task.pop(task, None)
        if len(self._heap) > 2 * len(self._by_task):
            self._heap = [(deadline, each) for each, deadline in self._by_task.items()]
            heapq.heapify(self._heap)

    def pop_due(self, now: float) -> list[str]:
        """Take out the tasks whose time is over."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            deadline, task = heapq.heappop(self._heap)
            if self._by_task.get(task) == deadline:
                due.append(task)
                del self._by_task[task]
        return due
