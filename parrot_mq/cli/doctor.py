"""`parrot-mq doctor`: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import typer
from rich.console import Console

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import BusConfig, Delivery, NatsBus, open_bus
from parrot_mq.bus.inspection import Inspection, inspect
from parrot_mq.bus.server import find_server_binary
from parrot_mq.bus.streams import MIN_SERVER_VERSION, SUBJECTS, check_version
from parrot_mq.cli.options import Servers, bus_config
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stack import ask_registry
from parrot_mq.cli.workers import describe_worker
from parrot_mq.errors import ParrotError, ServerStartFailed, ServerTooOld, TransportError
from parrot_mq.messages import LEASE_SUBJECT, STREAM_LEASES, CoordinatorLease, ServiceReport, decode
from parrot_mq.observability import configure_logging
from parrot_mq.types import fresh_id

__all__ = ["Check", "diagnose", "doctor"]

MAX_CLOCK_OFFSET_S = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, what was found, and what to do if that is not right.

    Attributes:
        is_needed: Whether the service cannot run without it.
    """

    what: str
    is_ok: bool
    found: str
    remedy: str = ""
    is_needed: bool = True


def doctor(servers: Servers = "") -> None:
    """Check the service: one line for each thing that is needed, with the remedy where it is missing.

    Exit status 1 if the service cannot run as it is.
    """
    configure_logging("error")
    raise typer.Exit(run_async(_doctor(servers)))


async def _doctor(servers: str) -> int:
    console = Console(highlight=False)
    is_well = True
    async for check in diagnose(bus_config(servers, name="parrot-mq doctor")):
        mark = "[green]ok  [/]" if check.is_ok else "[red]FAIL[/]" if check.is_needed else "[yellow]note[/]"
        remedy = "" if check.is_ok or not check.remedy else f"; {check.remedy}"
        console.print(f"{mark} {check.what:<12} {check.found}{remedy}", soft_wrap=True)
        is_well = is_well and (check.is_ok or not check.is_needed)
    return 0 if is_well else 1


async def diagnose(config: BusConfig) -> AsyncIterator[Check]:
    """Yield the checks one by one; stops where the rest depends on what is missing."""
    for check in _check_installation():
        yield check
    try:
        async with open_bus(config) as bus:
            async for check in _check_service(bus, ", ".join(config.servers)):
                yield check
    except ParrotError as error:
        yield Check("server", False, error.message)


def _check_installation() -> Iterator[Check]:
    try:
        yield Check("nats-server", True, str(find_server_binary()))
    except ServerStartFailed as error:
        yield Check("nats-server", False, error.message, is_needed=False)
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    found = f"{', '.join(missing)} not installed" if missing else "torch and transformers are installed"
    remedy = "to run workers here: pip install 'parrot-mq[worker]'"
    yield Check("worker extra", not missing, found, remedy, is_needed=False)


async def _check_service(bus: NatsBus, servers: str) -> AsyncIterator[Check]:
    inspection = await inspect(bus)
    yield Check("server", True, f"{servers} answers in {inspection.rtt_s * 1e3:.1f} ms")
    yield _check_version(bus.server_version)
    remedy = "start nats-server with `-js`, or enable JetStream for the account"
    problem = inspection.jetstream_problem
    yield Check("JetStream", not problem, problem or "is on", remedy)
    if problem:
        return
    yield _check_streams(inspection)
    yield _check_clock(inspection)
    async with ActorSystem(fresh_id("doctor"), bus=bus) as system:
        report = await ask_registry(system)
    yield _check_coordinator(report, await _read_lease(bus), inspection.clock_offset_s or 0.0)
    if report is not None:
        yield _check_workers(report)
        for worker in report.workers:
            yield Check(worker.worker, worker.state == "ready", describe_worker(worker), is_needed=False)


def _check_version(version: str) -> Check:
    needed = ".".join(map(str, MIN_SERVER_VERSION))
    try:
        check_version(version)
    except ServerTooOld:
        return Check("version", False, f"nats-server {version}", f"install {needed} or newer")
    return Check("version", True, f"nats-server {version} ({needed} or newer is needed)")


def _check_streams(inspection: Inspection) -> Check:
    missing = [stream for stream in SUBJECTS if stream not in inspection.num_messages]
    counts = ", ".join(f"{stream} {count}" for stream, count in inspection.num_messages.items())
    found = f"{', '.join(missing)} missing" if missing else f"messages: {counts}"
    return Check("streams", not missing, found, "a coordinator creates them when it starts")


def _check_clock(inspection: Inspection) -> Check:
    offset_s = inspection.clock_offset_s or 0.0
    is_ok = abs(offset_s) <= MAX_CLOCK_OFFSET_S
    return Check("clocks", is_ok, f"the server's is {offset_s:+.3f} s off ours", "synchronise both (chrony, ntpd)")


async def _read_lease(bus: NatsBus) -> Delivery | None:
    """The record of who leads, unless there is none."""
    try:
        return await bus.newest(STREAM_LEASES, LEASE_SUBJECT)
    except TransportError:
        return None


def _check_coordinator(report: ServiceReport | None, record: Delivery | None, clock_offset_s: float) -> Check:
    remedy = "start one: `parrot-mq coordinator` (or everything: `parrot-mq up`)"
    if report is not None:
        return Check("coordinator", True, f"{report.coordinator or 'one'} leads")
    if record is None:
        return Check("coordinator", False, "nobody leads, and nobody has led before", remedy)
    lease = decode(record.payload, CoordinatorLease)
    age_s = max(0.0, time.time() + clock_offset_s - record.timestamp)
    if not lease.holder:
        return Check("coordinator", False, f"nobody leads; the last one has stopped {age_s:.0f} s ago", remedy)
    if age_s < lease.lease_s:
        found = f"{lease.holder} has the lead and does not answer; it may be just starting"
        return Check("coordinator", False, found, "look again in a moment, then into its log")
    return Check("coordinator", False, f"nobody leads; {lease.holder} was not heard of for {age_s:.0f} s", remedy)


def _check_workers(report: ServiceReport) -> Check:
    ready = [worker for worker in report.workers if worker.state == "ready"]
    slots = sum(worker.num_slots for worker in ready)
    names = ", ".join(report.models) or "none"
    found = f"{len(ready)} of {len(report.workers)} ready, {slots} slots, models: {names}"
    return Check("workers", bool(ready), found, "start one: `parrot-mq worker --model FOLDER`")
