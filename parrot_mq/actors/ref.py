"""How callers reach an actor: `tell` and `ask`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from parrot_mq.errors import ActorStopped, AskTimeout, MailboxFull

if TYPE_CHECKING:
    from parrot_mq.actors.cell import Cell
    from parrot_mq.actors.runtime import Runtime

__all__ = ["ActorRef", "Ask", "Ref"]


class Ask:
    """A message in a mailbox whose sender waits for the answer."""

    __slots__ = ("future", "message")

    def __init__(self, message: object) -> None:
        self.message = message
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer(self, value: object) -> None:
        """Give the sender its answer, if it still waits."""
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: Exception) -> None:
        """Give the sender an error, if it still waits."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as seen: the sender may give up before it looks


class Ref(ABC):
    """What local and remote references have in common."""

    address: str
    """`node/name`: where the actor is reached from any process on the bus."""

    @abstractmethod
    async def tell(self, message: Any) -> None:
        """Send a message and expect no answer."""

    @abstractmethod
    async def ask(self, message: Any, *, timeout_s: float) -> Any:
        """Send a message and wait for what the actor's `receive` returns."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"


class ActorRef(Ref):
    """Reaches an actor of this process. It survives restarts: it means whoever runs under that name.

    Two references are equal when they mean the same name in the same system.
    """

    __slots__ = ("_cell", "_runtime", "address")

    def __init__(self, runtime: Runtime, cell: Cell) -> None:
        self._runtime = runtime
        self._cell = cell
        self.address = cell.address

    @property
    def name(self) -> str:
        """The actor's name in its system."""
        return self._cell.spec.name

    async def tell(self, message: object) -> None:
        """Put a message into the actor's mailbox; waits only when there is no room.

        Delivery: at most once. It is lost if the actor stops, or is being restarted while it handles it.
        Ordering: messages of one sender arrive in the order in which it sent them.
        Cancel: the message was not sent.

        Raises:
            ActorStopped: Nobody runs under that name.
            MailboxFull: The actor tells itself and its mailbox is full; waiting would never end.
        """
        mailbox = self._cell.mailbox
        if mailbox.num_free:
            mailbox.put_nowait(message)
        else:
            await self._put_waiting(message)

    def tell_nowait(self, message: object) -> None:
        """Put a message into the actor's mailbox if there is room.

        Raises:
            MailboxFull: There is none.
            ActorStopped: Nobody runs under that name.
        """
        mailbox = self._cell.mailbox
        if not mailbox.num_free:
            mailbox = self._find_cell().mailbox
        mailbox.put_nowait(message)

    async def ask(self, message: object, *, timeout_s: float) -> Any:
        """Send a message and wait for what the actor's `receive` returns.

        Args:
            timeout_s: Seconds to wait, for room in the mailbox and for the answer together.

        Delivery: at most once.
        Cancel: a message that the actor has not begun to handle is not handled; one that it has begun goes on.

        Raises:
            AskTimeout: No answer came in time.
            ActorStopped: Nobody runs under that name, or the actor stopped before it answered.
            ActorFailed: The actor failed while it handled the message.
            ParrotError: What the actor raised as its answer.
            RuntimeError: An actor asks itself; it would wait for ever.
        """
        if self._is_called_from_itself():
            raise RuntimeError(f"the actor {self.address} asks itself")
        ask = Ask(message)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self.tell(ask)
                return await ask.future
        except TimeoutError as error:
            if not limit.expired():  # a TimeoutError that is the actor's answer
                raise
            raise AskTimeout(address=self.address, timeout_s=timeout_s) from error

    async def stop(self) -> None:
        """Stop the actor for good and wait until it has stopped; it is not restarted. May be called twice.

        The message being handled is finished (cancelled after the actor's `stop_timeout_s`); asks that wait in the
        mailbox are answered with `ActorStopped`, tells are dropped. An actor that stops itself this way does not wait.

        Cancel: the actor stops nevertheless.
        """
        await self._find_cell_or_last().stop()

    async def wait_stopped(self) -> None:
        """Wait until the actor has stopped for good; a restart does not count."""
        await self._find_cell_or_last().wait_stopped()

    async def _put_waiting(self, message: object) -> None:
        cell = self._find_cell()
        if not cell.mailbox.num_free and self._is_called_from_itself():
            raise MailboxFull(address=self.address, capacity=cell.mailbox.capacity)
        await cell.mailbox.put(message)

    def _is_called_from_itself(self) -> bool:
        return self._cell.is_current_task()

    def _find_cell(self) -> Cell:
        """Whoever runs under the name now: after a restart of its parent that is another cell."""
        if self._cell.mailbox.is_closed:
            cell = self._runtime.cells.get(self.name)
            if cell is None:
                raise ActorStopped(address=self.address)
            self._cell = cell
        return self._cell

    def _find_cell_or_last(self) -> Cell:
        try:
            return self._find_cell()
        except ActorStopped:
            return self._cell

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorRef) and other._runtime is self._runtime and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)
