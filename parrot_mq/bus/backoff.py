"""Trying again: how long, how often, after what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from parrot_mq.errors import ConnectionLost, NoResponders, ParrotError, RequestTimeout

__all__ = ["ATTEMPT_S", "Backoff", "TryAgain", "retrying"]

_T = TypeVar("_T")
ATTEMPT_S = 2.0
"""Longest wait for one answer: a cluster without a leader drops requests silently."""


class TryAgain(Exception):
    """Raised by an attempt that may succeed later; `cause` comes out if it never does."""

    def __init__(self, cause: ParrotError) -> None:
        self.cause = cause


class Backoff:
    """Pauses between attempts, 50 ms to 500 ms, until a deadline. An election takes 4 to 8 s."""

    def __init__(self, total_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + total_s
        self._pause_s = 0.05

    @property
    def remaining_s(self) -> float:
        """Time that is left."""
        return max(0.0, self._deadline - self._loop.time())

    async def pause(self) -> bool:
        """Wait a little longer than last time; False if no time is left."""
        if self.remaining_s <= self._pause_s:
            return False
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(0.5, self._pause_s * 2)
        return True


async def retrying(total_s: float, attempt: Callable[[float], Awaitable[_T]]) -> _T:
    """Call `attempt(timeout_s)` until it succeeds.

    Raises:
        NoResponders, ConnectionLost, RequestTimeout: The last attempt's error, when the time is over.
    """
    backoff = Backoff(total_s)
    while True:
        try:
            return await attempt(min(ATTEMPT_S, backoff.remaining_s))
        except (NoResponders, ConnectionLost, RequestTimeout, TryAgain) as error:
            if not await backoff.pause():
                raise error.cause if isinstance(error, TryAgain) else error from None
