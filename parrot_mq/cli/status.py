"""`parrot-mq status`: how the service stands, on one page."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, RenderableType

from parrot_mq.actors import ActorSystem
from parrot_mq.autoscale.systemd import Systemd
from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.autoscale import autoscaler_name
from parrot_mq.cli.live import keep_drawing
from parrot_mq.cli.options import Servers, bus_config
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stack import ask_registry
from parrot_mq.cli.status_tables import Overview, draw_overview
from parrot_mq.cli.workers import PIPE_WIDTH
from parrot_mq.errors import ConfigurationError, ConnectFailed, ServiceManagerError
from parrot_mq.messages import ServiceReport, SlotStatus
from parrot_mq.observability import configure_logging
from parrot_mq.types import fresh_id

__all__ = ["read_units", "status"]

WORKER_UNITS = "parrot-worker@*.service"
NO_COORDINATOR = "no coordinator answers; start one: `parrot-mq coordinator`"


def status(
    servers: Servers = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, with rates, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known, for programs.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of `--watch`.")] = 1.0,
    user: Annotated[
        bool, typer.Option("--user", help="Units of this user's own service manager, not of the machine's.")
    ] = False,
) -> None:
    """Show how the service stands: models and what there is to do, slots and workers, tenants, the last scalings.

    It asks the coordinator, and systemd for units of which no autoscaler tells; what does not answer is left out. A
    slot is `off`, `starting`, `running`, on `standby` before it is stopped, or `failed`; `by` says who started it.
    Exit status 1 if no coordinator answers. What engines and caches do is shown by `parrot-mq workers`.
    """
    configure_logging("error")
    connection = bus_config(servers, name="parrot-mq status")
    last = run_async(_status(connection, watch=watch, as_json=as_json, interval_s=interval, user=user))
    if last is None or last.report is None:
        raise typer.Exit(1)


async def _status(
    connection: BusConfig, *, watch: bool, as_json: bool, interval_s: float, user: bool
) -> Overview | None:
    try:
        async with open_bus(connection) as bus, ActorSystem(fresh_id("status"), bus=bus) as system:
            return await _show(system, watch=watch, as_json=as_json, interval_s=interval_s, user=user)
    except ConnectFailed as error:
        overview = await _read(None, user=user, problem=error.message)
        _print(overview, as_json=as_json)
        return overview


async def _show(system: ActorSystem, *, watch: bool, as_json: bool, interval_s: float, user: bool) -> Overview | None:
    last: Overview | None = None

    async def draw() -> RenderableType:
        nonlocal last
        before, last = last, await _read(system, user=user)
        return draw_overview(last, before)

    if watch:
        await keep_drawing(_console(), interval_s, draw)
    else:
        last = await _read(system, user=user)
        _print(last, as_json=as_json)
    return last


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _print(overview: Overview, *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(overview), indent=2).decode())
    else:
        _console().print(draw_overview(overview))


async def _read(system: ActorSystem | None, *, user: bool, problem: str = "") -> Overview:
    report = await ask_registry(system) if system is not None else None
    if report is None and not problem:
        problem = NO_COORDINATOR
    units = [] if _is_told_of(report, user=user) else await read_units(user=user)
    return Overview(at=time.time(), report=report, units=_with_workers(units, report), problem=problem)


def _is_told_of(report: ServiceReport | None, *, user: bool) -> bool:
    """Whether an autoscaler tells of the units here."""
    name = autoscaler_name(user=user)
    return report is not None and any(each.autoscaler == name for each in report.autoscalers)


# -- units without an autoscaler -------------------------------------------------------------------------------------


async def read_units(*, user: bool) -> list[tuple[Unit, SlotStatus]]:
    """Units of workers on this machine; none if there is no systemd to ask."""
    try:
        async with Systemd(user=user) as systemd:
            units = await systemd.find(WORKER_UNITS)
    except (ServiceManagerError, ConfigurationError):
        return []
    return [(unit, _slot_status(unit)) for unit in units]


def _slot_status(unit: Unit) -> SlotStatus:
    number = re.search(r"@(\d+)\.service$", unit.name)
    is_live = unit.phase not in (UnitPhase.OFF, UnitPhase.FAILED, UnitPhase.UNAVAILABLE)
    return SlotStatus(
        slot=int(number[1]) if number is not None else 0,
        unit=unit.name,
        model="",
        state=unit.phase.value,
        owner="others" if is_live else "",
        since=unit.started_at,
        num_restarts=unit.num_restarts,
        status=unit.status,
    )


def _with_workers(units: list[tuple[Unit, SlotStatus]], report: ServiceReport | None) -> list[SlotStatus]:
    """Say of each unit which worker runs there."""
    workers = {each.invocation: each for each in report.workers if each.invocation} if report is not None else {}
    slots = []
    for unit, slot in units:
        worker = workers.get(unit.invocation)
        known: dict[str, Any] = {"worker": worker.worker, "model": worker.model} if worker is not None else {}
        slots.append(msgspec.structs.replace(slot, **known))
    return sorted(slots, key=lambda slot: slot.slot)
