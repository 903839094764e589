"""The command and its subcommands."""

from __future__ import annotations

import os
from importlib.metadata import entry_points

import typer

from parrot_mq.cli import (
    autoscale,
    coordinator,
    demo,
    doctor,
    explain,
    graph,
    native,
    pipeline,
    run,
    simulate,
    status,
    units,
    up,
    variables,
    workers,
)
from parrot_mq.errors import ParrotError

__all__ = ["app", "main"]

COMMANDS = "parrot_mq.commands"
"""Entry points of this group become subcommands; the worker's package adds `worker`."""

DEBUG = "PARROT_MQ_DEBUG"
"""Set to let errors that nobody expected end with their traceback."""

app = typer.Typer(
    name="parrot-mq",
    help="Serve LLM applications over NATS: semantic variables are subjects, prompts are tasks that wait for them.",
    epilog="New here? `parrot-mq demo` runs an application on this machine; `parrot-mq doctor` says what is missing.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("native")(native.native)
app.command("coordinator")(coordinator.coordinator)
app.command("autoscale")(autoscale.autoscale)
app.command("simulate")(simulate.simulate_command)
app.command("set")(variables.set_)
app.command("get")(variables.get)
app.command("watch")(variables.watch)
app.command("explain")(explain.explain)
app.command("graph")(graph.graph)
app.command("status")(status.status)
app.command("workers")(workers.workers)
app.command("doctor")(doctor.doctor)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(units.app, name="units")


def main() -> None:
    """Run the command line. No traceback reaches a person who did not ask for it."""
    try:
        for entry in entry_points(group=COMMANDS):
            app.command(entry.name)(entry.load())
        app()
    except ParrotError as error:
        typer.secho(f"error: {error.message}", fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        typer.secho(f"internal error: {type(error).__name__}: {error}", fg=typer.colors.RED, err=True)
        typer.secho(f"this is a mistake of parrot-mq; {DEBUG}=1 shows where it happened", err=True)
        raise SystemExit(70) from None
