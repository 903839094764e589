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
        >>> class Echo(Actor):
        ...     async def receive(self, message: object) -> object:
        ...         return message
        >>> def make_pair() -> Supervisor:
        ...     pair = [ChildSpec(factory=Echo, name="reader"), ChildSpec(factory=Echo, name="writer")]
        ...     return Supervisor(pair, supervision=Supervision(strategy=Strategy.ONE_FOR_ALL))
        >>> async def main() -> None:
        ...     async with ActorSystem("demo") as system:
        ...         await system.spawn(make_pair, name="pair")
        ...         print(await system.ref("writer").ask("ready", timeout_s=1))
        >>> asyncio.run(main())
        ready
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
