"""Options that several subcommands share."""

from __future__ import annotations

from typing import Annotated

import typer

from parrot_mq.bus import BusConfig

__all__ = ["LogLevel", "Servers", "Tenant", "bus_config"]

Servers = Annotated[
    str,
    typer.Option(
        envvar="PARROT_MQ_SERVERS",
        help="Addresses of the NATS servers, comma-separated.",
        show_default="nats://127.0.0.1:4222",
    ),
]
Tenant = Annotated[str, typer.Option(envvar="PARROT_MQ_TENANT", help="Whose subjects are used.")]
LogLevel = Annotated[str, typer.Option(envvar="PARROT_MQ_LOG_LEVEL", help="debug, info, warning or error.")]


def bus_config(servers: str, *, name: str) -> BusConfig:
    """The connection's settings: those of the environment, and the servers that were named.

    Raises:
        ConfigurationError: A value is malformed.
    """
    named = tuple(part.strip() for part in servers.split(",") if part.strip())
    return BusConfig.from_env(name=name, servers=named) if named else BusConfig.from_env(name=name)
