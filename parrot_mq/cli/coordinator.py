"""`parrot-mq coordinator`: run a coordinator in this process."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.observability import configure_logging


def coordinator(
    servers: Servers = "",
    model: Annotated[
        list[str] | None, typer.Option(help="A model that is served even while no worker runs; may be repeated.")
    ] = None,
    lease: Annotated[float, typer.Option(help="Seconds of silence after which a worker is lost.")] = 3.0,
    log_level: LogLevel = "info",
) -> None:
    """Run a coordinator: it turns facts into ready tasks and hands them to workers.

    It keeps no state of its own. Stop or kill it at any moment: the next one carries on from the facts. The newest
    coordinator wins; an older one ends by itself.
    """
    configure_logging(log_level)
    config = bus_config(servers, name="parrot-mq coordinator")
    run_async(_serve(config, CoordinatorConfig(models=tuple(model or ()), lease_s=lease)))


async def _serve(bus_config: BusConfig, config: CoordinatorConfig) -> None:
    exit_with_parent()
    async with open_bus(bus_config) as bus, open_coordinator(bus, config) as facts:
        with stop_signal() as stop:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(facts.wait_closed(), name="coordinator:watch")
                await stop.wait()
                watcher.cancel()
