"""`parrot-mq up`: a whole service on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from parrot_mq.cli.metrics import METRICS_PORT
from parrot_mq.cli.options import LogLevel
from parrot_mq.cli.process import run_async, stop_signal
from parrot_mq.cli.stack import Stack, StackOptions, open_stack
from parrot_mq.observability import configure_logging

__all__ = ["Model", "Native", "Slots", "open_stack_visibly", "up"]

Model = Annotated[
    str, typer.Option(help="Folder of a Hugging Face checkpoint, or `tiny` for the model that comes with this package.")
]
Slots = Annotated[int, typer.Option(min=1, help="Generations that one worker runs at a time.")]
Native = Annotated[
    list[str] | None,
    typer.Option(help="Native functions to serve, too: FILE.py, FILE.py:name or module:name; may be repeated."),
]


def up(
    model: Model = "tiny",
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; each loads the model.")] = 1,
    slots: Slots = 64,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the nats-server; 0 takes a free one.")] = 4222,
    store: Annotated[
        Path | None, typer.Option(help="Folder that keeps the facts across restarts; by default they go with Ctrl-C.")
    ] = None,
    native: Native = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            envvar=METRICS_PORT,
            min=1,
            max=65000,
            help="Serve metrics for Prometheus: the coordinator's on this port, the workers' on those after it.",
            show_default="off",
        ),
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Run nats-server, coordinator and workers on this machine; Ctrl-C stops all of them cleanly.

    Then, from another terminal: `parrot-mq run app.py`, or any NATS client on the address that is printed.
    """
    configure_logging("warning")
    options = StackOptions(
        model=model,
        num_workers=workers,
        num_slots=slots,
        port=port,
        store_dir=store,
        native=tuple(native or ()),
        metrics_port=metrics_port,
        log_level=log_level,
    )
    run_async(_up(options))


async def _up(options: StackOptions) -> None:
    console = Console(stderr=True)
    with stop_signal() as stop:
        async with asyncio.TaskGroup() as group:
            service = group.create_task(_serve(options, console), name="up")
            await _first_of(stop, service)
            service.cancel()
    console.print("stopped")


async def _first_of(stop: asyncio.Event, service: asyncio.Task[None]) -> None:
    """Wait for the signal; a service that ends before it has failed, and its group says why."""
    service.add_done_callback(lambda _: stop.set())
    await stop.wait()


async def _serve(options: StackOptions, console: Console) -> None:
    async with open_stack_visibly(options, console) as stack:
        console.print(
            f"[bold green]ready[/] at [bold]{stack.url}[/], logs in {stack.log_dir}; Ctrl-C stops", soft_wrap=True
        )
        console.print(f"  PARROT_MQ_SERVERS={stack.url} parrot-mq run app.py")
        await asyncio.Event().wait()


@asynccontextmanager
async def open_stack_visibly(options: StackOptions, console: Console) -> AsyncIterator[Stack]:
    """`open_stack`, with what it waits for shown on the terminal."""
    with console.status("starting") as status:
        async with open_stack(options, lambda words: status.update(escape(words))) as stack:
            status.stop()
            yield stack
