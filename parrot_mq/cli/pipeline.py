"""`parrot-mq pipeline`: check a pipeline, run it, work once more on what it gave up."""

from __future__ import annotations

from typing import Annotated

import typer

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.options import LogLevel, Servers, Tenant, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.client import Client
from parrot_mq.errors import ParrotError
from parrot_mq.observability import configure_logging
from parrot_mq.pipelines import Pipeline, PipelineRunner, dead_events, load_pipeline

__all__ = ["app"]

app = typer.Typer(
    help="Events on a subject or in a stream start an LLM graph, and what comes of it is published.",
    no_args_is_help=True,
)

Target = Annotated[str, typer.Argument(metavar="PIPELINE", help="FILE.toml, module:name or FILE.py:name.")]


@app.command()
def check(target: Target) -> None:
    """Say whether a pipeline can run: a mistake is told with its place and its remedy. Nothing is connected to."""
    configure_logging("error")
    typer.echo(describe(_load(target)))


@app.command()
def run(target: Target, servers: Servers = "", tenant: Tenant = "default", log_level: LogLevel = "info") -> None:
    """Run a pipeline until Ctrl-C or SIGTERM; then it finishes what it has in hand.

    Start it as often as you like, on any machine: processes of one pipeline share its events. An event that comes again
    meets its own values, and its result is published once. What cannot be worked on is kept, with the reason:
    `parrot-mq pipeline replay --list`.
    """
    configure_logging(log_level, identifier="parrot-pipeline")
    run_async(_run(_load(target), bus_config(servers, name="parrot-mq pipeline"), tenant))


@app.command()
def replay(
    target: Target,
    servers: Servers = "",
    tenant: Tenant = "default",
    only_list: Annotated[
        bool, typer.Option("--list", help="Only show the events, and why they were given up.")
    ] = False,
) -> None:
    """Work once more on the events that were given up, for instance when the pipeline was mended."""
    configure_logging("error")
    chosen = _load(target)
    config = bus_config(servers, name="parrot-mq pipeline replay")
    if only_list:
        run_async(_list(chosen, config, tenant))
    elif run_async(_replay(chosen, config, tenant)):
        raise typer.Exit(1)


def _load(target: str) -> Pipeline:
    try:
        return load_pipeline(target)
    except ParrotError as error:
        typer.secho(f"error: {error.message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


def describe(pipeline: Pipeline) -> str:
    """A pipeline in words."""
    source, result, limits = pipeline.source, pipeline.result, pipeline.limits
    of_stream = f"stream {source.stream}" + (f", subject {source.subject}" if source.subject else "")
    fields = ", ".join(f"{name} = {field.pointer or 'all of it'}" for name, field in pipeline.inputs.items())
    lines = [
        f"pipeline {pipeline.name}",
        f"  events   {of_stream if source.stream else f'subject {source.filter}'}"
        f" ({'at least once' if source.stream else 'at most once'})",
        f"  id       {source.id or 'of the CloudEvent' + (', or the place in the stream' if source.stream else '')}",
        f"  inputs   {fields or 'none'}",
        f"  results  subject {result.subject}, {result.format}{', stored once' if result.stored else ''}",
        f"  limits   {limits.concurrency} events at a time, {limits.timeout_s:g} s for a generation",
    ]
    return "\n".join(lines)


async def _run(pipeline: Pipeline, config: BusConfig, tenant: str) -> None:
    exit_with_parent()
    with stop_signal() as stop:
        async with open_bus(config) as bus:
            runner = PipelineRunner(pipeline, Client(bus, tenant=tenant))
            await runner.run(stop)
    done = runner.statistics()
    typer.echo(f"{done.num_published} results published, {done.num_repeated} repeated, {done.num_dead} given up")


async def _list(pipeline: Pipeline, config: BusConfig, tenant: str) -> None:
    num_events = 0
    async with open_bus(config) as bus:
        async for dead in dead_events(bus, tenant, pipeline.name):
            num_events += 1
            typer.echo(f"{dead.event_id}  {dead.reason.code}: {dead.reason.message}")
    typer.echo(f"{num_events} events were given up")


async def _replay(pipeline: Pipeline, config: BusConfig, tenant: str) -> int:
    async with open_bus(config) as bus:
        done = await PipelineRunner(pipeline, Client(bus, tenant=tenant)).replay()
    typer.echo(f"{done.num_published} results published, {done.num_repeated} repeated, {done.num_dead} stay given up")
    return done.num_dead
