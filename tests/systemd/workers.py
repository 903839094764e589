"""Workers of the machine that answer by a function, and programs that use them."""

from __future__ import annotations

import shutil
from pathlib import Path

from parrot_mq.program import Input, Output, semantic_function
from tests.systemd.machine import Machine

__all__ = ["SERVERS", "echo", "use_scripted_workers"]

SERVERS = "nats://127.0.0.1:4222"


@semantic_function
def echo(text: Input, result: Output = Output(max_tokens=2_000)) -> None:
    """{{text}}{{result}}"""


def use_scripted_workers(machine: Machine, *, service: str = "", **environment: object) -> None:
    """Let `parrot-worker@N` answer each prompt with its own text in capitals, until `reset`.

    Args:
        machine: Where.
        service: Further lines of the section [Service].
        environment: What the worker gets in its environment.
    """
    script = "scripted_worker.py"
    shutil.copy(Path(__file__).parent / script, machine.shared / script)
    lines = ["[Service]", "ExecStart=", f"ExecStart=/opt/parrot-mq/bin/python /run/host/{script} --slot %i"]
    lines += [f"Environment={name}={value}" for name, value in environment.items()]
    machine.drop_in("parrot-worker@.service", "\n".join([*lines, service, ""]))
