"""`parrot-mq workers`: who works on what, how full each cache is, how fast it goes."""

from __future__ import annotations

import time
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import open_bus
from parrot_mq.cli.live import keep_drawing
from parrot_mq.cli.options import Servers, bus_config
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stack import ask_registry
from parrot_mq.errors import NoResponders
from parrot_mq.messages import REGISTRY_ADDRESS, EngineReport, ServiceReport, WorkerStatus
from parrot_mq.observability import configure_logging
from parrot_mq.types import fresh_id

__all__ = ["describe_state", "describe_worker", "make_table", "workers"]

NOTHING = EngineReport()
PIPE_WIDTH = 160
"""Columns where there is no terminal to ask."""


class Reading(NamedTuple):
    """A report, and when it came (seconds on some clock)."""

    report: ServiceReport
    at: float


def workers(
    servers: Servers = "",
    watch: Annotated[bool, typer.Option(help="Show it again and again, with rates, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the coordinator answers, for programs.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of `--watch`.")] = 1.0,
) -> None:
    """List the workers: state, load, speed, how much of the prompts they shared, how full their caches are.

    `batch` and `step` are means over the steps of the engine; `shared` is the part of all prompts that was not computed
    again. `used` pages of the cache hold what runs, `kept` ones what may be needed again, `pinned` ones what will be.
    Figures count from the loading of the model; with `--watch`, from the last look.
    """
    configure_logging("error")
    run_async(_workers(servers, watch=watch, as_json=as_json, interval_s=interval))


async def _workers(servers: str, *, watch: bool, as_json: bool, interval_s: float) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    config = bus_config(servers, name="parrot-mq workers")
    async with open_bus(config) as bus, ActorSystem(fresh_id("workers"), bus=bus) as system:
        if watch:
            await _watch(system, console, interval_s)
            return
        reading = await _read(system)
        if as_json:
            typer.echo(msgspec.json.format(msgspec.json.encode(reading.report), indent=2).decode())
        else:
            console.print(make_table(reading))


async def _watch(system: ActorSystem, console: Console, interval_s: float) -> None:
    before: Reading | None = None

    async def draw() -> Table:
        nonlocal before
        reading = await _read(system)
        table = make_table(reading, before)
        before = reading
        return table

    await keep_drawing(console, interval_s, draw)


async def _read(system: ActorSystem) -> Reading:
    report = await ask_registry(system)
    if report is None:
        raise NoResponders(subject=REGISTRY_ADDRESS, remedy="start a coordinator: `parrot-mq coordinator`")
    return Reading(report, time.monotonic())


# -- in words and figures --------------------------------------------------------------------------------------------


def describe_state(status: WorkerStatus) -> str:
    """How a worker is; while it loads, how far."""
    if status.state != "loading" or status.loading is None:
        return status.state
    return f"loading: {status.loading.stage} {status.loading.fraction:.0%}"


def describe_worker(status: WorkerStatus) -> str:
    """One line about a worker."""
    parts = [status.model, describe_state(status), f"{len(status.running)} of {status.num_slots} slots in use"]
    if status.engine is not None:
        parts.append(f"{status.engine.num_output_tokens:,} tokens generated")
        used, kept, _ = _pages(status.engine)
        if num_pages := status.engine.num_pages:
            parts.append(f"cache {_share(used, num_pages)} used and {_share(kept, num_pages)} kept")
    return ", ".join(parts)


def make_table(reading: Reading, before: Reading | None = None) -> Table:
    """A row for each worker: since its start, or since `before`."""
    report = reading.report
    num_ready = sum(status.state == "ready" for status in report.workers)
    title = f"{num_ready} of {len(report.workers)} workers ready, {report.num_unfinished:,} tasks unfinished"
    if report.coordinator:
        title += f", led by {report.coordinator}"
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in ("worker", "model", "state"):
        table.add_column(name)
    for name in ("slots", "batch", "step", "generated", "shared", "used", "kept", "pinned"):
        table.add_column(name, justify="right", no_wrap=True)
    known = {} if before is None else {status.worker: status.engine for status in before.report.workers}
    elapsed_s = None if before is None else reading.at - before.at
    for status in sorted(report.workers, key=lambda status: (status.model, status.worker)):
        figures = _figures(status.engine, known.get(status.worker), elapsed_s)
        slots = f"{len(status.running)}/{status.num_slots}"
        table.add_row(status.worker, status.model, describe_state(status), slots, *figures)
    return table


def _figures(engine: EngineReport | None, before: EngineReport | None, elapsed_s: float | None) -> tuple[str, ...]:
    if engine is None:
        return ()
    if before is None or before.num_steps > engine.num_steps:  # it was loaded anew
        before, elapsed_s = NOTHING, None
    num_steps = engine.num_steps - before.num_steps
    num_tokens = engine.num_output_tokens - before.num_output_tokens
    num_prompt_tokens = engine.num_prompt_tokens - before.num_prompt_tokens
    return (
        f"{(engine.num_batched - before.num_batched) / num_steps:.1f}" if num_steps else "",
        f"{(engine.step_s - before.step_s) / num_steps * 1e3:.1f} ms" if num_steps else "",
        f"{num_tokens / elapsed_s:,.0f}/s" if elapsed_s else f"{num_tokens:,}",
        _share(engine.num_shared_tokens - before.num_shared_tokens, num_prompt_tokens),
        *(_share(num, engine.num_pages) for num in _pages(engine)),
    )


def _pages(engine: EngineReport) -> tuple[int, int, int]:
    """Pages in use, those that are only kept in case that they are needed again, and of these those that will be."""
    in_use = engine.num_pages - engine.num_free_pages - engine.num_cached_pages
    return in_use, engine.num_cached_pages, engine.num_pinned_pages


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""
