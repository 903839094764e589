"""Showing the same thing again and again, as `--watch` does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rich.console import Console, RenderableType
from rich.live import Live

from parrot_mq.cli.process import stop_signal

__all__ = ["keep_drawing"]


async def keep_drawing(console: Console, interval_s: float, draw: Callable[[], Awaitable[RenderableType]]) -> None:
    """Draw every `interval_s` seconds until Ctrl-C: in place on a terminal, else one below the other."""
    with stop_signal() as stop, Live(console=console, auto_refresh=False) as live:
        while not stop.is_set():
            picture = await draw()
            if console.is_terminal:
                live.update(picture, refresh=True)
            else:
                console.print(picture)
            try:
                async with asyncio.timeout(interval_s):
                    await stop.wait()
            except TimeoutError:
                pass
