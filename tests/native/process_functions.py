"""Native functions that a test holds until it lets them go; they say which process they run in."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from parrot_mq import native_function


@native_function
async def hold(folder: str) -> str:
    """Say that it runs, and wait for the file `go`."""
    (Path(folder) / str(os.getpid())).touch()
    while not (Path(folder) / "go").exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return str(os.getpid())


@native_function(attempt_timeout_s=3, max_attempts=20)
async def echo(text: str) -> str:
    """The text, after a moment."""
    await asyncio.sleep(0.05)
    return f"<{text}>"


@native_function
def hold_in_thread(folder: str) -> str:
    """The same in a thread."""
    (Path(folder) / str(os.getpid())).touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    return str(os.getpid())
