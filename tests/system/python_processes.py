"""Python processes of the service, each with a log; killed at the end of their block."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["ROOT", "running_python"]

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running_python(
    *arguments: str, log: Path, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that writes its log to a file, with these variables and no others of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARROT_MQ_")}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, "--log-level", "info",
            cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env={**kept, **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
