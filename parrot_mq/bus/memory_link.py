"""The way between a memory bus and its server: in order, perhaps late, sometimes cut."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from parrot_mq.bus.base import Delivery
from parrot_mq.errors import ConnectionClosed, ConnectionLost, ParrotError

__all__ = ["Link"]


@dataclass(frozen=True, slots=True)
class _Item:
    """What travels: when it arrives, what happens then, and whether it outlasts a cut."""

    when: float
    arrive: Callable[[], object]
    is_kept: bool


@dataclass(slots=True)
class _Lane:
    """One direction. Nothing overtakes."""

    delay_s: Callable[[], float] | None
    is_open: bool = True
    _items: deque[_Item] = field(default_factory=deque)
    _timer: asyncio.TimerHandle | None = None

    def put(self, arrive: Callable[[], object], *, is_kept: bool) -> None:
        now = asyncio.get_running_loop().time()
        when = now if self.delay_s is None else now + self.delay_s()
        if self._items:
            when = max(when, self._items[-1].when)
        if self.is_open and not self._items and when <= now:
            arrive()
            return
        self._items.append(_Item(when, arrive, is_kept))
        self._wait()

    def cut(self) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._items = deque(item for item in self._items if item.is_kept)

    def mend(self) -> None:
        self.is_open = True
        self._wait()

    def _wait(self) -> None:
        if self.is_open and self._items and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._items[0].when, self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self.is_open and self._items and self._items[0].when <= now:
            self._items.popleft().arrive()
        self._wait()


class Link:
    """What lies between one `MemoryBus` and its server.

    Ordering: each direction keeps it, as TCP does.

    Args:
        delay_s: Seconds that a message takes one way: a number, or a function that is asked for each message. 0
            delivers at once, in the stack of the sender.
    """

    def __init__(self, delay_s: float | Callable[[], float] = 0.0) -> None:
        delay = delay_s if callable(delay_s) else None if delay_s <= 0 else lambda: delay_s
        self._out, self._in = _Lane(delay), _Lane(delay)
        self._trips: dict[asyncio.Future[None], None] = {}
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def is_up(self) -> bool:
        """Whether it is not cut."""
        return self._out.is_open

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with False when the link is cut, and with True when it is mended."""
        self._listeners.append(listener)

    # -- faults ------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Lose the connection: core messages are lost, on their way and until `mend`; requests get `ConnectionLost`.

        Facts wait, and acknowledgements are repeated. What is sent from here meanwhile goes out after `mend`.
        """
        if not self.is_up:
            return
        for lane in (self._out, self._in):
            lane.cut()
        self._fail(ConnectionLost(subject="the link"))
        self._tell()

    def mend(self) -> None:
        """Have the connection again."""
        if self.is_up:
            return
        for lane in (self._out, self._in):
            lane.mend()
        self._tell()

    def close(self) -> None:
        """Let those that travel know that their connection was closed."""
        self._fail(ConnectionClosed())

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener(self.is_up)

    def _fail(self, error: ParrotError) -> None:
        for trip in list(self._trips):
            if not trip.done():
                trip.set_exception(error)

    # -- messages ----------------------------------------------------------------------------------------------------

    def send(self, arrive: Callable[[], object], *, is_kept: bool = False) -> None:
        """Do something at the server; `is_kept` says that a cut only delays what is on its way."""
        self._out.put(arrive, is_kept=is_kept)

    def inward(self, deliver: Callable[[Delivery], None], *, is_kept: bool) -> Callable[[Delivery], None]:
        """What the server calls to have something delivered here; `is_kept` says that a cut only delays it."""

        def arrive(delivery: Delivery) -> None:
            if is_kept or self.is_up:
                self._in.put(lambda: deliver(delivery), is_kept=is_kept)

        return arrive

    async def there(self) -> None:
        """Travel to the server; raises `ConnectionLost` if the link is cut meanwhile."""
        await self._travel(self._out)

    async def back(self) -> None:
        """Travel back; raises as `there` does."""
        await self._travel(self._in)

    async def _travel(self, lane: _Lane) -> None:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.put(lambda: None if arrived.done() else arrived.set_result(None), is_kept=False)
        if arrived.done():
            return
        self._trips[arrived] = None
        try:
            await arrived
        finally:
            del self._trips[arrived]
