"""`parrot-mq coordinator`: run a coordinator in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.metrics import MetricsHost, MetricsPort, serving_metrics
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.coordinator import Candidate, CoordinatorConfig, LeaderConfig, load_tenants, open_candidate
from parrot_mq.observability import configure_logging

if TYPE_CHECKING:
    from parrot_mq.observability.metrics import Collector


def coordinator(
    servers: Servers = "",
    model: Annotated[
        list[str] | None, typer.Option(help="A model that is served even while no worker runs; may be repeated.")
    ] = None,
    lease: Annotated[float, typer.Option(help="Seconds of silence after which a worker is lost.")] = 3.0,
    leader_lease: Annotated[
        float,
        typer.Option(min=0.5, help="Seconds of silence after which another coordinator takes the lead from this one."),
    ] = 2.0,
    tenants: Annotated[
        Path | None,
        typer.Option(
            envvar="PARROT_MQ_TENANTS",
            help="TOML file with the weight and the quotas of each tenant.",
            show_default="off",
        ),
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_level: LogLevel = "info",
) -> None:
    """Run a coordinator: it turns facts into ready tasks and hands them to workers.

    Start two or more, on one machine or on several: one leads, the others stand by. When the leader stops, another
    takes the lead at once; when it is killed, or its machine is lost, within three seconds. It keeps no state of its
    own: the next one carries on from the facts.
    """
    configure_logging(log_level)
    config = bus_config(servers, name="parrot-mq coordinator")
    coordinator_config = CoordinatorConfig(models=tuple(model or ()), lease_s=lease)
    leader_config = LeaderConfig(lease_s=leader_lease)
    run_async(_serve(config, coordinator_config, leader_config, tenants, metrics_port, metrics_host))


async def _serve(
    bus_config: BusConfig,
    config: CoordinatorConfig,
    leader_config: LeaderConfig,
    tenants: Path | None,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    exit_with_parent()
    if tenants is not None:
        config = replace(config, tenants=load_tenants(tenants))
    with stop_signal() as stop:
        async with (
            open_candidate(lambda: open_bus(bus_config), config, leader_config) as candidate,
            serving_metrics(metrics_port, metrics_host, lambda: _collectors(candidate)),
        ):
            await stop.wait()


def _collectors(candidate: Candidate) -> list[Collector]:
    from parrot_mq.actors.metrics import ActorCollector
    from parrot_mq.coordinator.metrics import CoordinatorCollector, LeaderCollector

    return [
        LeaderCollector(candidate.leadership),
        CoordinatorCollector(candidate.statistics),
        ActorCollector(candidate.actors),
    ]
