"""What every runner does: load, warm up, then run the workloads it is asked for and measure each.

The driver starts `python -m benchmarks.engine.runners.NAME JOB`, with the job as JSON, and then writes one JSON object
per line: `{"workload": "w1", "repetition": 0}`. Each is answered by one line. The runner ends when its input does.

Standard library only, so that it works in every environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from benchmarks.engine.workloads import Generate, run_workload, warm_up

__all__ = ["Job", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a runner is to load.

    Attributes:
        model: Folder or file of the model in the format of this engine.
        dtype: `float32` or `bfloat16`: weights, cache and arithmetic.
        num_threads: Threads to compute with.
        max_context_tokens: Longest prompt and output that will come.
        num_cache_tokens: Tokens that the KV cache has room for.
        options: Switches of this engine alone.
    """

    model: str
    dtype: str
    num_threads: int
    max_context_tokens: int
    num_cache_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


def serve(load: Callable[[Job], Generate], *packages: str) -> None:
    """Run as the process of one engine; the driver is told the versions of these packages."""
    answers = _take_stdout()
    job = Job(**json.loads(sys.argv[1]))
    start = time.perf_counter()
    generate = load(job)
    warm_up(generate)
    versions = {package: version(package) for package in packages}
    _answer(answers, {"ready_s": time.perf_counter() - start, "peak_mib": _peak_mib(), "versions": versions})
    for line in sys.stdin:
        _answer(answers, _measure(generate, **json.loads(line)))
    # Some engines hang when their threads and modules are torn down; there is nothing left to save.
    answers.close()
    os._exit(0)


def _measure(generate: Generate, workload: str, repetition: int) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    outputs = run_workload(workload, repetition, generate)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": _peak_mib(),
        "outputs": outputs,
    }


def _take_stdout() -> IO[str]:
    """Keep standard output for answers: what engines print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _answer(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _peak_mib() -> float:
    """Most memory that this process has held since it began, weights mapped from files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system does not tell the peak of the memory")
