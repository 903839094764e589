"""A bounded queue in front of one reader."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from parrot_mq.errors import ActorStopped, MailboxFull

__all__ = ["Mailbox", "MailboxStatistics"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxStatistics:
    """How a mailbox stands.

    Attributes:
        capacity: Most messages it holds.
        depth: Messages it holds now.
        num_waiting: Senders that wait for room.
        num_put: Messages that were ever put into it.
        num_taken: Messages that were ever taken out.
    """

    capacity: int
    depth: int
    num_waiting: int
    num_put: int
    num_taken: int


class Mailbox(Generic[T]):
    """A bounded queue with many senders and one reader, first in, first out.

    A sender that waits has its turn before any that comes later: the slot that a taken message frees is kept for it.

    Cancel: a cancelled `put` has put nothing, a cancelled `get` or `wait_not_empty` has taken nothing.

    Example:
        >>> mailbox: Mailbox[str] = Mailbox(2, address="node/demo")
        >>> mailbox.put_nowait("hello")
        >>> mailbox.get_nowait()
        'hello'
    """

    # Invariants, checked by `check_integrity`: `num_free` + len(items) + num_granted == capacity while open; somebody
    # waits only when `num_free` is 0. So a look at `num_free` tells a sender whether it may go ahead.
    __slots__ = (
        "_items",
        "_num_granted",
        "_num_taken",
        "_reader",
        "_waiting",
        "address",
        "capacity",
        "is_closed",
        "num_free",
    )

    def __init__(self, capacity: int, *, address: str) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox holds at least 1 message, not {capacity}")
        self.address = address
        self.capacity = capacity
        self.num_free = capacity
        self.is_closed = False
        self._items: deque[T] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._num_granted = 0  # slots given to senders that have not run since
        self._num_taken = 0
        self._reader: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    # -- senders -----------------------------------------------------------------------------------------------------

    def put_nowait(self, item: T) -> None:
        """Put a message in if there is room.

        Raises:
            MailboxFull: There is none.
            ActorStopped: The mailbox is closed.
        """
        if not self.num_free:
            raise self._refusal()
        self.num_free -= 1
        self._items.append(item)
        if self._reader is not None:
            self.interrupt()

    async def put(self, item: T) -> None:
        """Put a message in, waiting for room.

        Cancel: the message was not put in.

        Raises:
            ActorStopped: The mailbox is closed, or was closed while waiting.
        """
        if not self.num_free:
            await self._wait_granted()
        self.put_nowait(item)

    async def _wait_granted(self) -> None:
        """Wait for a slot and return with `num_free` at least 1, to be used before the next await."""
        if self.is_closed:
            raise ActorStopped(address=self.address)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                with suppress(ValueError):  # not there if a slot was offered since
                    self._waiting.remove(turn)
            elif not self.is_closed:  # granted and cancelled at once: the slot goes to the next
                self._num_granted -= 1
                self._free_slot()
            raise
        if not self.is_closed:
            self._num_granted -= 1
            self.num_free += 1

    def _refusal(self) -> MailboxFull | ActorStopped:
        if self.is_closed:
            return ActorStopped(address=self.address)
        return MailboxFull(address=self.address, capacity=self.capacity)

    # -- the reader --------------------------------------------------------------------------------------------------

    def get_nowait(self) -> T:
        """Take the oldest message.

        Raises:
            IndexError: There is none.
        """
        item = self._items.popleft()
        self._num_taken += 1
        if self._waiting:
            self._free_slot()
        elif not self.is_closed:
            self.num_free += 1
        return item

    async def get(self) -> T:
        """Take the oldest message, waiting for one.

        Cancel: nothing was taken.

        Raises:
            ActorStopped: The mailbox is closed.
        """
        while not self._items:
            if self.is_closed:
                raise ActorStopped(address=self.address)
            await self.wait_not_empty()
        return self.get_nowait()

    async def wait_not_empty(self) -> None:
        """Wait for a message, or until `interrupt` or `close` is called; takes nothing."""
        if self._reader is not None:
            raise RuntimeError(f"the mailbox of {self.address} has a reader already")
        if self._items or self.is_closed:
            return
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def interrupt(self) -> None:
        """Wake the reader if it waits."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # -- both --------------------------------------------------------------------------------------------------------

    def close(self) -> list[T]:
        """Refuse further messages, wake everybody who waits, and give back the messages that nobody took."""
        remaining = list(self._items)
        self._items.clear()
        self.is_closed = True
        self.num_free = self._num_granted = 0
        while self._waiting:
            self._grant(self._waiting.popleft())
        self.interrupt()
        return remaining

    def statistics(self) -> MailboxStatistics:
        """How the mailbox stands now."""
        return MailboxStatistics(
            capacity=self.capacity,
            depth=len(self._items),
            num_waiting=len(self._waiting),
            num_put=self._num_taken + len(self._items),
            num_taken=self._num_taken,
        )

    def check_integrity(self) -> None:
        """Prove that every slot is in one place: free, granted or used."""
        if self.is_closed:
            assert self.num_free == 0
            assert not self._waiting
            return
        assert self.num_free + self._num_granted + len(self._items) == self.capacity
        assert min(self.num_free, self._num_granted) >= 0
        assert not self._waiting or self.num_free == 0

    def _free_slot(self) -> None:
        """Give a slot to the sender that has waited longest, or to nobody in particular."""
        while self._waiting:
            if self._grant(self._waiting.popleft()):
                self._num_granted += 1
                return
        self.num_free += 1

    @staticmethod
    def _grant(turn: asyncio.Future[None]) -> bool:
        if turn.done():  # its sender was cancelled and has not run since
            return False
        turn.set_result(None)
        return True
