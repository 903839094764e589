"""`parrot-mq coordinator`: run a coordinator in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.metrics import MetricsHost, MetricsPort, serving_metrics
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.coordinator import Candidate, CoordinatorConfig, LeaderConfig, load_tenants, open_candidate
from parrot_mq.coordinator.statistics import CoordinatorStatistics, LeaderStatistics
from parrot_mq.observability import Condition, configure_logging, reporting_service

if TYPE_CHECKING:
    from parrot_mq.observability.metrics import Collector

MAX_TAKE_OVER_S = 120.0
"""Who has the lease for so long without leading is stuck."""


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
    function_grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which nobody may serve a native function until its calls fail.")
    ] = 10.0,
    max_calls: Annotated[
        int, typer.Option(min=1, help="Most calls of native functions that run at a time for each tenant.")
    ] = 256,
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
    configure_logging(log_level, identifier="parrot-coordinator")
    config = bus_config(servers, name="parrot-mq coordinator")
    coordinator_config = CoordinatorConfig(
        models=tuple(model or ()), lease_s=lease, function_grace_s=function_grace, max_calls_per_tenant=max_calls
    )
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
            condition = CoordinatorCondition(candidate.name, candidate.leadership, candidate.statistics, time.monotonic)
            async with reporting_service(condition.read) as reporter:
                await stop.wait()
                condition.stop()
                reporter.tick()


class CoordinatorCondition:
    """How a coordinator is, for the service manager.

    It is ready when it leads, or knows who does. It is stuck when it has the lease for a long time and does not lead;
    without a server it waits, and starting it again would not help.

    Args:
        name: Its name in the record of the lease.
        read_leadership: Who leads.
        read_statistics: What it has to do.
        monotonic: Tells the time.
    """

    def __init__(
        self,
        name: str,
        read_leadership: Callable[[], LeaderStatistics],
        read_statistics: Callable[[], CoordinatorStatistics],
        monotonic: Callable[[], float],
    ) -> None:
        self._name = name
        self._read_leadership = read_leadership
        self._read_statistics = read_statistics
        self._monotonic = monotonic
        self._fine_at = monotonic()
        self._was_ready = self._is_stopping = False

    def stop(self) -> None:
        """From now on it stops."""
        self._is_stopping = True

    def read(self) -> Condition:
        """How it is now."""
        lead = self._read_leadership()
        is_taking_over = lead.holder == self._name and not lead.leads
        if not is_taking_over:
            self._fine_at = self._monotonic()
        self._was_ready |= bool(lead.holder) and not is_taking_over
        return Condition(
            phase="stopping" if self._is_stopping else "ready" if self._was_ready else "starting",
            status=self._words(lead, is_taking_over=is_taking_over),
            is_alive=self._monotonic() - self._fine_at <= MAX_TAKE_OVER_S,
        )

    def _words(self, lead: LeaderStatistics, *, is_taking_over: bool) -> str:
        if is_taking_over:
            return f"takes the lead, term {lead.term}"
        if not lead.leads:
            return f"stands by for {lead.holder}" if lead.holder else "waits for the lead"
        found = self._read_statistics()
        return f"leads, term {lead.term}: {found.num_unfinished} unfinished tasks, {len(found.workers)} workers"


def _collectors(candidate: Candidate) -> list[Collector]:
    from parrot_mq.actors.metrics import ActorCollector
    from parrot_mq.coordinator.metrics import CoordinatorCollector, LeaderCollector

    return [
        LeaderCollector(candidate.leadership),
        CoordinatorCollector(candidate.statistics),
        ActorCollector(candidate.actors),
    ]
