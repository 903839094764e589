"""Run the stages one after the other, each within its time, and write what they told.

python -m benchmarks.gpu --folder build/gpu [--budget 530] [--only versions tests]
python -m benchmarks.gpu --folder build/gpu --rehearse      # the same on a CPU, with a tiny model
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.report import write_report
from benchmarks.gpu.stage import MARK

ROOT: Final = Path(__file__).parents[2]
TAIL_CHARACTERS: Final = 4000
GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One process.

    Attributes:
        name: Of the stage.
        limit_s: Most seconds that it gets.
        command: Arguments of Python; the seconds that it has are appended.
    """

    name: str
    limit_s: float
    command: Sequence[str]


@dataclass(slots=True)
class Outcome:
    """What a stage came to.

    Attributes:
        name: Of the stage.
        status: `ok`, `failed`, `out of time` or `skipped`.
        seconds: That it took.
        results: What it told, in order.
        tail: End of its output, if it did not end well.
    """

    name: str
    status: str
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)
    tail: str = ""


STAGES: Final = (
    Stage("versions", 60, ("-m", "benchmarks.gpu.versions")),
    Stage("parity", 75, ("-m", "benchmarks.gpu.parity")),
    Stage("tests", 90, ("-m", "benchmarks.gpu.tests")),
    Stage("attention", 80, ("-m", "benchmarks.gpu.attention")),
    Stage("engine", 190, ("-m", "benchmarks.gpu.engine")),
    Stage("transformers", 80, ("-m", "benchmarks.gpu.comparators")),
)
"""In the order of what one wants to know first: a later stage gets what the earlier ones leave of the budget."""


def main() -> None:
    arguments = _arguments()
    if arguments.rehearse:
        os.environ |= {"PARROT_BENCH_REHEARSAL": "1", "OMP_NUM_THREADS": "1"}
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + arguments.budget
    outcomes: list[Outcome] = []
    for stage in STAGES:
        if arguments.only and stage.name not in arguments.only:
            continue
        outcome = run(stage, min(stage.limit_s, end - time.monotonic() - GRACE_S))
        print(f"== {outcome.name}: {outcome.status} after {outcome.seconds:.0f} s", flush=True)
        outcomes.append(outcome)
        # After each stage: whatever ends this run, what is known is written.
        (folder / "gpu.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
        (folder / "gpu.md").write_text(write_report([asdict(one) for one in outcomes]))
    print((folder / "gpu.md").read_text())
    sys.exit(any(outcome.status != "ok" for outcome in outcomes))


def run(stage: Stage, limit_s: float) -> Outcome:
    """Run a stage; its output is shown as it comes to a file, so that no pipe holds anything back."""
    if limit_s < 10:
        return Outcome(stage.name, "skipped")
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, *stage.command, f"{limit_s:.0f}"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        status = _wait(process, limit_s + GRACE_S)
        output.seek(0)
        text = output.read()
    lines = text.splitlines()
    results = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    tail = "" if status == "ok" else "\n".join(line for line in lines if not line.startswith(MARK))[-TAIL_CHARACTERS:]
    return Outcome(stage.name, status, time.monotonic() - began, results, tail)


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> str:
    try:
        return "ok" if process.wait(limit_s) == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the session that it was started as, with compilers and all
        process.wait()
        return "out of time"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where gpu.json and gpu.md go")
    parser.add_argument("--budget", type=float, default=530.0, help="seconds for everything")
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES], help="these stages alone")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with a tiny model: does it all run?")
    return parser.parse_args()


if __name__ == "__main__":
    main()
