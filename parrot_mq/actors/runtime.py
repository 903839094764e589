"""What the actors of one system share: node, clock, bus, names, and the task group that their tasks belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from parrot_mq.actors.children import Children
from parrot_mq.errors import ActorNameTaken, ActorStopped

if TYPE_CHECKING:
    from parrot_mq.actors.cell import Cell
    from parrot_mq.actors.supervision import Supervision
    from parrot_mq.actors.system import ActorSystem
    from parrot_mq.bus.base import Bus
    from parrot_mq.clock import Clock

__all__ = ["Runtime"]


class Runtime:
    """What the actors of one system share. Not for users: they see `ActorSystem`."""

    def __init__(self, system: ActorSystem, *, node: str, clock: Clock, bus: Bus | None) -> None:
        self.system = system
        self.node = node
        self.clock = clock
        self.bus = bus
        self.group: asyncio.TaskGroup | None = None  # set by the system when it opens
        self.is_open = False  # set by the system
        self.cells: dict[str, Cell] = {}  # by name, in the order of registration

    def create_task(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task that the system awaits at its end. It must not raise."""
        if self.group is None:
            work.close()
            raise RuntimeError(f"the actor system {self.node!r} is not open: use `async with`")
        return self.group.create_task(work, name=name)

    def children_of(self, parent: str, supervision: Supervision) -> Children:
        """An empty set of children."""
        return Children(self, parent, supervision)

    def register(self, cell: Cell) -> None:
        """Give a name to an actor.

        Raises:
            ActorNameTaken: Another actor has it.
            ActorStopped: The system is not open.
        """
        if not self.is_open:
            raise ActorStopped(address=cell.address)
        if cell.spec.name in self.cells:
            raise ActorNameTaken(address=cell.address)
        self.cells[cell.spec.name] = cell

    def forget(self, cell: Cell) -> None:
        """Free the name of an actor that has stopped for good."""
        if self.cells.get(cell.spec.name) is cell:
            del self.cells[cell.spec.name]
