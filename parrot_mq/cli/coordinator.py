"""`parrot-mq coordinator`: run a coordinator in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.metrics import MetricsHost, MetricsPort, serving_metrics
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.coordinator import Coordinator, CoordinatorConfig, open_coordinator
from parrot_mq.observability import configure_logging

if TYPE_CHECKING:
    from parrot_mq.observability.metrics import Collector


def coordinator(
    servers: Servers = "",
    model: Annotated[
        list[str] | None, typer.Option(help="A model that is served even while no worker runs; may be repeated.")
    ] = None,
    lease: Annotated[float, typer.Option(help="Seconds of silence after which a worker is lost.")] = 3.0,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_level: LogLevel = "info",
) -> None:
    """Run a coordinator: it turns facts into ready tasks and hands them to workers.

    It keeps no state of its own. Stop or kill it at any moment: the next one carries on from the facts. The newest
    coordinator wins; an older one ends by itself.
    """
    configure_logging(log_level)
    config = bus_config(servers, name="parrot-mq coordinator")
    coordinator_config = CoordinatorConfig(models=tuple(model or ()), lease_s=lease)
    run_async(_serve(config, coordinator_config, metrics_port, metrics_host))


async def _serve(bus_config: BusConfig, config: CoordinatorConfig, metrics_port: int | None, metrics_host: str) -> None:
    exit_with_parent()
    async with (
        open_bus(bus_config) as bus,
        open_coordinator(bus, config) as running,
        serving_metrics(metrics_port, metrics_host, lambda: _collectors(running)),
    ):
        with stop_signal() as stop:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(running.wait_closed(), name="coordinator:watch")
                await stop.wait()
                watcher.cancel()


def _collectors(running: Coordinator) -> list[Collector]:
    from parrot_mq.actors.metrics import ActorCollector
    from parrot_mq.coordinator.metrics import CoordinatorCollector

    return [CoordinatorCollector(running.statistics), ActorCollector(running.actors)]
