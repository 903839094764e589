"""One runner as a child process: started, asked, ended."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.engine.engines import Entry
from benchmarks.engine.environments import ROOT, find_python, variables
from benchmarks.engine.runners.base import Job

__all__ = ["Measurement", "Runner", "RunnerFailed"]

RUNNERS = "benchmarks.engine.runners."
"""Modules that `Entry.runner` names lie here."""


class RunnerFailed(Exception):
    """The process ended without an answer. Its log says why."""


class Measurement(NamedTuple):
    """One workload, run once.

    Attributes:
        seconds: From the first request to the last token.
        cpu_seconds: Of all threads, waiting in a loop included.
        peak_mib: Most memory that the process has held since it began.
        outputs: New tokens of each request.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    outputs: list[list[int]]


class Runner:
    """The process of one engine. Its memory is its own, and it sleeps while another one is measured."""

    def __init__(self, entry: Entry, job: Job, folder: Path) -> None:
        self.entry = entry
        self.log = folder / "logs" / f"{entry.name}-{job.dtype}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        python = find_python(folder, entry.environment)
        command = [str(python), "-m", RUNNERS + entry.runner, json.dumps(asdict(job))]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables(folder, entry.environment, job.num_threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.kill()
        with suppress(BrokenPipeError):  # Its input may hold a line that it will not read.
            self.process.communicate()  # Waits for its end, and closes the pipes.

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the model is loaded and warm; returns what the runner tells about itself.

        Raises:
            RunnerFailed: It ended instead.
        """
        return self._read()

    def measure(self, workload: str, repetition: int) -> Measurement:
        """Run one workload.

        Raises:
            RunnerFailed: It ended instead.
        """
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # The missing answer tells more.
            self.process.stdin.write(json.dumps({"workload": workload, "repetition": repetition}) + "\n")
            self.process.stdin.flush()
        return Measurement(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = (self.log.read_text().strip().splitlines() or ["it said nothing"])[-1]
            raise RunnerFailed(f"{self.entry.title}: {last} (see {self.log})")
        answer: dict[str, Any] = json.loads(line)
        return answer
