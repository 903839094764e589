"""`parrot-mq run`: run a program, with a service of its own if none is named."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from parrot_mq.cli.options import Servers
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stack import StackOptions
from parrot_mq.cli.up import Model, Native, Slots, open_stack_visibly
from parrot_mq.observability import configure_logging

__all__ = ["run"]


def run(
    program: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A Python file that uses parrot_mq.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of the program.")] = None,
    servers: Servers = "",
    model: Model = "tiny",
    slots: Slots = 64,
    native: Native = None,
) -> None:
    """Run a Python program against a service.

    With `--servers` (or `PARROT_MQ_SERVERS`) it uses that service; otherwise one is started on this machine for as long
    as the program runs. The program finds it by itself: `Client.connect()` reads `PARROT_MQ_SERVERS`.

    `--native FILE.py` serves native functions for as long, for instance those of the program itself.
    """
    configure_logging("warning")
    command = [sys.executable, str(program), *(arguments or [])]
    if servers and native:
        remedy = f"start `parrot-mq native {' '.join(native)} --servers {servers}` beside it"
        raise typer.BadParameter(f"it is for a service of its own; {remedy}", param_hint="--native")
    if servers:
        raise typer.Exit(run_async(_run(command, servers)))
    options = StackOptions(model=model, num_slots=slots, native=tuple(native or ()))
    raise typer.Exit(run_async(_run_alone(command, options)))


async def _run_alone(command: list[str], options: StackOptions) -> int:
    async with open_stack_visibly(options, Console(stderr=True)) as stack:
        return await _run(command, stack.url)


async def _run(command: list[str], servers: str) -> int:
    """Run the program; Ctrl-C reaches it too, and its status is ours."""
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PARROT_MQ_SERVERS": servers})
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
