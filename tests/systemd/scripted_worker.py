"""What a unit runs in place of `parrot-mq worker`: the same, with an engine whose answers come from a function.

Runs inside the machine. The environment says how it behaves:

SCRIPTED_LOAD_S   seconds that loading takes, with progress four times a second
SCRIPTED_HANG     loading gets no further
SCRIPTED_STEP_S   seconds of a step; it generates one character
SCRIPTED_SLOTS    generations that it runs at a time

While /run/host/stuck is there, the step in which a generation begins does not end.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import typer
from parrot_workers import command
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import GenerationRequest, ScriptedEngine

STUCK = Path("/run/host/stuck")


def _answer(request: GenerationRequest) -> str:
    while STUCK.exists():
        time.sleep(0.02)
    return request.text.upper()


def _load(_: WorkerConfig, report: Callable[[str, float], None]) -> ScriptedEngine:
    while os.environ.get("SCRIPTED_HANG"):
        time.sleep(0.1)
    num_reports = int(4 * float(os.environ.get("SCRIPTED_LOAD_S", "0")))
    for index in range(num_reports):
        report("weights", index / num_reports)
        time.sleep(0.25)
    return ScriptedEngine(
        _answer,
        tokens_per_step=1,
        num_slots=int(os.environ.get("SCRIPTED_SLOTS", "16")),
        step_s=float(os.environ.get("SCRIPTED_STEP_S", "0")),
    )


command.create_engine = _load  # type: ignore[attr-defined, assignment]
typer.run(command.worker)
