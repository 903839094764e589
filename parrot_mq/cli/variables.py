"""`parrot-mq set`, `get` and `watch`: variables from the command line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from parrot_mq.bus import Delivery
from parrot_mq.cli.options import Servers, Tenant, bus_config
from parrot_mq.cli.process import run_async, stop_signal
from parrot_mq.client import Client
from parrot_mq.errors import ParrotError
from parrot_mq.messages import (
    BlobRef,
    ErrorInfo,
    TaskEvent,
    TokenDelta,
    decode,
    decode_value,
    event_subject,
    session_subjects,
    stream_subject,
)
from parrot_mq.types import check_name

__all__ = ["get", "set_", "watch"]

SessionName = Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session.")]
VariableName = Annotated[str, typer.Argument(metavar="VARIABLE", help="Name of the variable.")]


def set_(
    session: SessionName,
    variable: VariableName,
    text: Annotated[str, typer.Argument(help="The text; `-` reads it from standard input.")],
    servers: Servers = "",
    tenant: Tenant = "default",
) -> None:
    """Set a variable, once. Any NATS client can do the same with a plain publish. A list is a JSON array of texts.

    Example: `parrot-mq set demo topic "parrots"`
    """
    run_async(_set(servers, tenant, session, variable, sys.stdin.read() if text == "-" else text))


async def _set(servers: str, tenant: str, session: str, variable: str, text: str) -> None:
    _check_names(session, variable)
    config = bus_config(servers, name="parrot-mq set")
    async with Client.connect(tenant=tenant, config=config) as client, client.session(session) as opened:
        await opened.variable(variable).set(text)


def _check_names(session: str, variable: str) -> None:
    check_name("session", session)
    check_name("variable", variable)


def get(
    session: SessionName,
    variable: VariableName,
    servers: Servers = "",
    tenant: Tenant = "default",
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the value; 0 looks once.")] = 60.0,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text while it is generated.")] = False,
) -> None:
    """Print the value of a variable; waits until it is set. A list is a JSON array of texts.

    Example: `parrot-mq get demo summary --stream`
    """
    run_async(_get(servers, tenant, session, variable, max(timeout, 0.2), stream))


async def _get(servers: str, tenant: str, session: str, name: str, timeout_s: float, is_stream: bool) -> None:
    _check_names(session, name)
    config = bus_config(servers, name="parrot-mq get")
    async with Client.connect(tenant=tenant, config=config) as client, client.session(session) as opened:
        variable = opened.variable(name)
        if not is_stream:
            typer.echo(await variable.get(timeout_s))
            return
        async for piece in variable.stream(timeout_s):
            typer.echo(piece, nl=False)
        typer.echo()


def watch(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session; `*` watches all.")] = "*",
    servers: Servers = "",
    tenant: Tenant = "default",
    tokens: Annotated[bool, typer.Option("--tokens", help="Show text while it is generated, too.")] = False,
) -> None:
    """Print what happens in a session, as it happens: values, task events, and with `--tokens` the text."""
    run_async(_watch(servers, tenant, session, tokens))


async def _watch(servers: str, tenant: str, session: str, with_tokens: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    subjects = [session_subjects(tenant, session, "set"), event_subject(tenant, session, "*")]
    if with_tokens:
        subjects.append(stream_subject(tenant, session, "*"))

    async def show(delivery: Delivery) -> None:
        console.print(_line(delivery))

    async with Client.connect(tenant=tenant, config=bus_config(servers, name="parrot-mq watch")) as client:
        for subject in subjects:
            await client.bus.subscribe(subject, show)
        typer.secho(f"watching {' '.join(subjects)}; Ctrl-C stops", dim=True, err=True)
        with stop_signal() as stop:
            await stop.wait()


def _line(delivery: Delivery) -> Text:
    _, _, kind, session, name = delivery.subject.split(".", 4)
    try:
        what, style = _describe(kind, delivery)
    except ParrotError as error:
        what, style = error.message, "red"
    return Text.assemble((f"{session}  ", "dim"), (f"{kind:<7}", "cyan"), (f"{name}  ", "bold"), (what, style))


def _describe(kind: str, delivery: Delivery) -> tuple[str, str]:
    if kind == "stream":
        delta = decode(delivery.payload, TokenDelta, delivery.headers)
        return f"+{delta.offset} {delta.text!r}", "dim"
    if kind == "event":
        return _describe_event(decode(delivery.payload, TaskEvent, delivery.headers)), "dim"
    match decode_value(delivery.payload, delivery.headers):
        case ErrorInfo(code=code, message=message):
            return f"{code}: {message}", "red"
        case BlobRef(size_bytes=size):
            return f"a text of {size} bytes", "green"
        case str(text):
            return repr(text if len(text) <= 200 else text[:200] + "…"), "green"
    raise AssertionError("every kind of value is handled")


def _describe_event(event: TaskEvent) -> str:
    parts = [event.variable or event.task, event.function, event.worker, event.batch]
    if event.num_prompt_tokens:
        parts.append(f"{event.num_prompt_tokens} prompt tokens, {event.num_shared_tokens} shared")
    if event.num_output_tokens:
        parts.append(f"{event.num_output_tokens} generated")
    if event.error is not None:
        parts.append(f"{event.error.code}: {event.error.message}")
    return "  ".join(part for part in parts if part)
