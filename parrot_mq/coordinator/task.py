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
from parrot_mq.types import Objective, VariableId

__all__ = ["Deadlines", "Refusal", "Task", "read_task"]

log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Task:
    """A task that is not finished.

    Attributes:
        stored_at: When the server stored it, seconds since 1970.
        is_inherited: It was stored before this coordinator began: an earlier one may have let it in.
        unset: Outputs that are not set yet.
    """

    address: TaskAddress
    record: PromptTask
    stored_at: float
    generations: dict[VariableId, PlannedGeneration]
    unset: set[VariableId]
    is_inherited: bool = False

    @property
    def deadline(self) -> float:
        """When its time is over, seconds since 1970."""
        return self.stored_at + self.record.timeout_s

    @property
    def marks(self) -> dict[VariableId, Objective]:
        """What it says of its outputs."""
        objectives = {name: planned.output.objective for name, planned in self.generations.items()}
        return {name: objective for name, objective in objectives.items() if objective is not None}

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


def read_task(address: TaskAddress, delivery: Delivery, *, is_inherited: bool = False) -> Task | Refusal:
    """Decode and plan a task; whatever is wrong with it becomes a refusal."""
    try:
        return _plan(address, delivery, is_inherited)
    except ParrotError as error:
        problem = error
    except Exception as error:
        log.exception("task_crashed", session=address.session, task=address.task)
        problem = ParrotError(f"the coordinator cannot handle the task: {type(error).__name__}: {error}")
    return Refusal(address, [VariableId(name) for name in salvage_outputs(delivery.payload)], problem)


def _plan(address: TaskAddress, delivery: Delivery, is_inherited: bool) -> Task:
    record = decode(delivery.payload, PromptTask, delivery.headers)
    generations = {planned.writes: planned for planned in plan_task(record)}
    if len(generations) < len(record.outputs):
        raise DuplicateProducer(variable=_first_repeated(record), producer=address.task)
    return Task(address, record, delivery.timestamp, generations, set(generations), is_inherited)


def _first_repeated(record: PromptTask) -> str:
    names = [output.variable for output in record.outputs.values()]
    return next(name for name in names if names.count(name) > 1)


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
