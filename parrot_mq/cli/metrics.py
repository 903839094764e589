"""Options that switch metrics on, and what they switch on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from parrot_mq.errors import ConfigurationError

if TYPE_CHECKING:
    from parrot_mq.observability.metrics import Collector

__all__ = ["METRICS_PORT", "MetricsHost", "MetricsPort", "serving_metrics"]

METRICS_PORT = "PARROT_MQ_METRICS_PORT"

MetricsPort = Annotated[
    int | None,
    typer.Option(
        envvar=METRICS_PORT,
        min=0,
        max=65535,
        help="Serve metrics for Prometheus on this port, at /metrics; 0 takes a free one, which the log names.",
        show_default="off",
    ),
]
MetricsHost = Annotated[
    str, typer.Option(envvar="PARROT_MQ_METRICS_HOST", help="Address to serve metrics on; 0.0.0.0 is every one.")
]


@asynccontextmanager
async def serving_metrics(
    port: int | None, host: str, collectors: Callable[[], list[Collector]]
) -> AsyncIterator[None]:
    """Serve metrics during the block, if a port is given.

    Args:
        collectors: Imports and makes what is served; called only if something is.

    Raises:
        ConfigurationError: prometheus-client is not installed, or the port cannot be listened on.
    """
    if port is None:
        yield
        return
    try:
        from parrot_mq.observability.metrics import open_metrics
    except ImportError:
        sentence = "metrics need prometheus-client: pip install 'parrot-mq[server]'"
        raise ConfigurationError(sentence, setting="metrics_port") from None
    async with open_metrics(port, *collectors(), host=host):
        yield
