"""What a user writes (`Actor`) and what the framework gives to it (`ActorContext`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from structlog.typing import FilteringBoundLogger

from parrot_mq.actors.child import DEFAULT_MAILBOX_CAPACITY, DEFAULT_STOP_TIMEOUT_S, ChildSpec
from parrot_mq.actors.ref import ActorRef
from parrot_mq.actors.supervision import RestartPolicy, Supervision
from parrot_mq.clock import Clock
from parrot_mq.errors import ActorStopped

if TYPE_CHECKING:
    from parrot_mq.actors.life import Life
    from parrot_mq.actors.system import ActorSystem

__all__ = ["Actor", "ActorContext"]


class Actor:
    """State that only its own messages change, one at a time.

    Subclass it, keep state in attributes, and handle messages in `receive`. The framework creates it by a factory, sets
    `context`, and calls the three hooks. A restart makes a new instance: state is rebuilt in `on_start`.

    **What an exception in `receive` does**: raised in answer to an *ask*, a `ParrotError` is the answer; it goes to the
    asker and the actor goes on. Any other exception, and any exception while a *tell* is handled, fails the actor: it
    is restarted (or not) by its parent's `Supervision`, and an asker gets `ActorFailed`.

    Example:
        >>> class Counter(Actor):
        ...     async def on_start(self) -> None:
        ...         self.total = 0
        ...     async def receive(self, message: object) -> object:
        ...         match message:
        ...             case int(number):
        ...                 self.total += number
        ...             case "total":
        ...                 return self.total
        >>> async def main() -> None:
        ...     async with ActorSystem("demo") as system:
        ...         counter = await system.spawn(Counter, name="counter")
        ...         await counter.tell(40)
        ...         await counter.tell(2)
        ...         print(await counter.ask("total", timeout_s=1))
        >>> asyncio.run(main())
        42
    """

    context: ActorContext  # set by the framework before on_start

    supervision: Supervision = Supervision()
    """How this actor looks after the children that it spawns."""

    async def on_start(self) -> None:
        """Build the state. The actor is ready, and its starter goes on, when this returns.

        Cancel: by a stop; clean up in `finally`, for `on_stop` is called only after a start that succeeded.
        """

    async def receive(self, message: Any) -> object | None:
        """Handle one message; the next one waits until this returns. What it returns answers an ask."""
        raise NotImplementedError(f"{type(self).__name__} must define receive()")

    async def on_stop(self) -> None:
        """Give back what `on_start` took; also called after a failure. Tasks and children have ended by then."""


class ActorContext:
    """An actor's view of the framework: who it is, and what it may start. It ends with the actor's life.

    Attributes:
        ref: Reaches this actor.
        system: Where it runs.
        clock: Time; virtual in simulation.
        log: A logger of the actor's module that has its address bound.
    """

    __slots__ = ("_life", "clock", "log", "ref", "system")

    def __init__(
        self, life: Life, *, ref: ActorRef, system: ActorSystem, clock: Clock, log: FilteringBoundLogger
    ) -> None:
        self._life = life
        self.ref = ref
        self.system = system
        self.clock = clock
        self.log = log

    @property
    def name(self) -> str:
        """The actor's name in its system."""
        return self.ref.name

    async def spawn(
        self,
        factory: Callable[[], Actor],
        *,
        name: str,
        restart: RestartPolicy = RestartPolicy.PERMANENT,
        mailbox_capacity: int = DEFAULT_MAILBOX_CAPACITY,
        stop_timeout_s: float = DEFAULT_STOP_TIMEOUT_S,
        accepts: Any = None,
    ) -> ActorRef:
        """Start a child, supervised by this actor; arguments and errors as `ActorSystem.spawn`.

        Children stop before this actor's `on_stop`, in reverse order of their start, also when it is restarted.
        """
        return await self.spawn_child(
            ChildSpec(
                factory=factory,
                name=name,
                restart=restart,
                mailbox_capacity=mailbox_capacity,
                stop_timeout_s=stop_timeout_s,
                accepts=accepts,
            )
        )

    async def spawn_child(self, spec: ChildSpec) -> ActorRef:
        """Start a child as `spawn` does."""
        return await self._life.spawn(spec)

    def tell_self_nowait(self, message: object) -> None:
        """Put a message at the end of the own mailbox.

        Raises:
            MailboxFull: There is no room.
        """
        self.ref.tell_nowait(message)

    def run(self, work: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[object]:
        """Run `work` beside the messages, as a task of this actor.

        It is cancelled when the actor stops (after the message being handled, before the children stop). If it raises,
        the actor fails. Its changes of state interleave with `receive` at every await of both.

        Returns:
            The task; cancel it to end it early.

        Raises:
            ActorStopped: The actor is ending.
        """
        return self._life.run(work, name=name)

    def every(self, period_s: float, message: object) -> asyncio.Task[object]:
        """Tell the actor `message` every `period_s` seconds, first after one period.

        A tick that finds no room waits for it; ticks missed meanwhile are left out.

        Returns:
            The timer; cancel it to end it early.

        Raises:
            ValueError: `period_s` is not more than 0.
        """
        if period_s <= 0:
            raise ValueError(f"period_s is more than 0 seconds, not {period_s}")
        return self.run(self._tick(period_s, message), name="every")

    def after(self, delay_s: float, message: object) -> asyncio.Task[object]:
        """Tell the actor `message` once, in `delay_s` seconds.

        Returns:
            The timer; cancel it to end it early.
        """
        return self.run(self._tell_later(delay_s, message), name="after")

    def stop(self) -> None:
        """End this actor after the message being handled. A permanent actor is then started again."""
        self._life.request_stop()

    async def _tick(self, period_s: float, message: object) -> None:
        due = self.clock.monotonic() + period_s
        while True:
            await self.clock.sleep(max(0.0, due - self.clock.monotonic()))
            await self._tell_self(message)
            due += period_s
            if (late_s := self.clock.monotonic() - due) > 0:
                due += (late_s // period_s + 1) * period_s

    async def _tell_later(self, delay_s: float, message: object) -> None:
        await self.clock.sleep(delay_s)
        await self._tell_self(message)

    async def _tell_self(self, message: object) -> None:
        """What comes due while the actor is ending is not for it any more."""
        with suppress(ActorStopped):
            await self.ref.tell(message)
