"""Child processes that are kept running: started again when they end, stopped together."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from parrot_mq.cli.process import EXIT_WITH_PARENT
from parrot_mq.errors import ProcessFailed
from parrot_mq.observability import get_logger

__all__ = ["Child"]

STOP_TIMEOUT_S = 40.0
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 10.0
REPORTED = 1
"""Exit status of a process that ended with a clear error; starting it again would not help."""
MAX_EARLY_ENDS = 6
EARLY_S = 5.0
"""A child that ends sooner than this may be unable to start; after a few times in a row it is given up."""

log = get_logger(__name__)


class Child:
    """One `parrot-mq` subcommand as a child process.

    It has a pipe from us as standard input: when we are gone, however we went, it stops by itself.

    Attributes:
        name: For logs and errors.
        process: The process that runs now.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], *, log_file: Path, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self._arguments = tuple(arguments)
        self._log_file = log_file
        self._env = env or {}
        self.process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep it running until cancelled.

        Raises:
            ProcessFailed: It ended with an error of ours, or several times right after its start; says its last words.
        """
        loop = asyncio.get_running_loop()
        num_early, pause_s = 0, MIN_PAUSE_S
        try:
            while True:
                started_at = loop.time()
                status = await self._run_once()
                num_early = num_early + 1 if loop.time() - started_at < EARLY_S else 0
                if status == REPORTED or num_early >= MAX_EARLY_ENDS:
                    raise ProcessFailed(name=self.name, status=status, last_words=self._last_words(status))
                log.warning("process_ended", name=self.name, status=status, restart_in_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, MAX_PAUSE_S) if num_early else MIN_PAUSE_S
        finally:
            await self._stop()

    async def _run_once(self) -> int:
        with self._log_file.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "parrot_mq",
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._env, EXIT_WITH_PARENT: "1"},
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the children in order
            )
        return await self.process.wait()

    async def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _last_words(self, status: int) -> str:
        lines = self._log_file.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-1:] if status == REPORTED else lines[-8:])
