"""An actor that only looks after others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

from parrot_mq.actors.actor import Actor
from parrot_mq.actors.child import ChildSpec
from parrot_mq.actors.supervision import Supervision

__all__ = ["Supervisor"]


class Supervisor(Actor):
    """An actor that starts children in order and only looks after them.

    When they end too often it fails, and its own parent restarts it, and with it all of them.

    Example:
        >>> pair = lambda: Supervisor(
        ...     [ChildSpec(factory=Reader, name="reader"), ChildSpec(factory=Writer, name="writer")],
        ...     supervision=Supervision(strategy=Strategy.ONE_FOR_ALL),
        ... )
        >>> await system.spawn(pair, name="pair")  # doctest: +SKIP
    """

    def __init__(self, children: Sequence[ChildSpec], *, supervision: Supervision | None = None) -> None:
        self._specs = tuple(children)
        self.supervision = supervision or Supervision()

    async def on_start(self) -> None:
        """Start the children, in order; if one fails, so does the supervisor."""
        for spec in self._specs:
            await self.context.spawn_child(spec)

    async def receive(self, message: object) -> Never:
        """Refuse: a supervisor understands no message."""
        raise NotImplementedError(f"the supervisor {self.context.ref.address} takes no messages")
