"""A service as a person starts it, and examples as a person runs them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

__all__ = ["EXAMPLES", "ROOT", "RUN_TIMEOUT_S", "Service", "running_service"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

RUN_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
PROGRAMS = {"parrot-mq": (sys.executable, "-m", "parrot_mq"), "python": (sys.executable,), "node": ("node",)}


class Service:
    """A running service; remembers what was printed, so that several tests may look at one run.

    Attributes:
        url: Where it is reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._printed: dict[str, str] = {}

    def run(self, command: str) -> str:
        """What a command prints, which ends by itself and without an error."""
        if command not in self._printed:
            with self.started(command) as process:
                output, errors = process.communicate(timeout=RUN_TIMEOUT_S)
                assert process.returncode == 0, f"{command}: {errors}"
            self._printed[command] = output
        return self._printed[command]

    @contextmanager
    def started(self, command: str) -> Iterator[Popen[str]]:
        """A command that runs until the end of the block, where Ctrl-C ends it."""
        program, *arguments = shlex.split(command)
        environment = {**os.environ, "PARROT_MQ_SERVERS": self.url}
        with _process([*PROGRAMS[program], *arguments], environment) as process:
            yield process


@contextmanager
def running_service() -> Iterator[Service]:
    """`parrot-mq up` with the tiny model, on a free port, until the end of the block."""
    command = [*PROGRAMS["parrot-mq"], "up", "--port", "0", "--log-level", "warning"]
    with _process(command, dict(os.environ)) as process:
        assert process.stderr is not None
        words = ""
        while not (ready := re.search(r"ready at (nats://\S+),", words)):
            line = process.stderr.readline()
            assert line, f"it ended: {words}"
            words += line
        yield Service(ready[1])


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[Popen[str]]:
    with Popen(command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.communicate(timeout=STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
