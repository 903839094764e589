"""Time as an argument, so that simulation can own it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What a component may ask about time."""

    def now(self) -> float:
        """Seconds since 1970 (UTC): for deadlines that cross processes."""

    def monotonic(self) -> float:
        """Seconds that never go back: for durations in this process."""

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
