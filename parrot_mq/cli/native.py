"""`parrot-mq native`: serve native functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.metrics import MetricsHost, MetricsPort, serving_metrics
from parrot_mq.cli.options import LogLevel, Servers, Tenant, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.errors import ParrotError
from parrot_mq.native import HostStatistics, NativeHost, load_functions
from parrot_mq.observability import Condition, configure_logging, reporting_service
from parrot_mq.program import NativeFunction

if TYPE_CHECKING:
    from parrot_mq.observability.metrics import Collector

__all__ = ["native"]

STUCK_S = 60.0
"""A host all of whose places are taken for so long by code that does not return is of no use."""

Functions = list[NativeFunction[..., Any]]


def native(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGETS...",
            envvar="PARROT_MQ_NATIVE_TARGETS",
            help="FILE.py, FILE.py:name, module or module:name; a name is that of a function or of a list of them.",
        ),
    ],
    servers: Servers = "",
    tenant: Tenant = "default",
    concurrency: Annotated[
        int, typer.Option(min=1, envvar="PARROT_MQ_NATIVE_CONCURRENCY", help="How many calls run at a time.")
    ] = 16,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=0, envvar="PARROT_MQ_NATIVE_MAX_WAITING", help="How many more wait here; others try another host."
        ),
    ] = 4,
    drain: Annotated[
        float,
        typer.Option(
            min=0.0, envvar="PARROT_MQ_NATIVE_DRAIN_S", help="Seconds that calls which run may go on at the end."
        ),
    ] = 30.0,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be served; connect to nothing.")] = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_level: LogLevel = "info",
) -> None:
    """Serve native functions: ordinary Python as steps of LLM programs, until Ctrl-C or SIGTERM.

    In `tools.py`:

        from parrot_mq import native_function

        @native_function(attempt_timeout_s=10)
        def search(question: str) -> str:
            return ...

    `parrot-mq native tools.py` serves what is decorated there, and a program calls it as `search(question=variable)`.
    No code travels: a call has the name and the texts.

    Start it as often as you like, on any machine: hosts share the calls. A call whose host is killed is attempted on
    another one, so a function may run twice. What it raises comes out of `await` as `FunctionFailed`; the traceback is
    in the log here.
    """
    configure_logging("error" if check else log_level, identifier="parrot-native")
    functions = _load(targets)
    if check:
        for function in functions:
            typer.echo(describe(function))
        return
    settings = {"tenant": tenant, "concurrency": concurrency, "max_waiting": max_waiting, "drain_s": drain}
    run_async(_serve(bus_config(servers, name="parrot-mq native"), functions, settings, metrics_port, metrics_host))


def _load(targets: list[str]) -> Functions:
    try:
        return load_functions(*targets)
    except ParrotError as error:
        typer.secho(f"error: {error.message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


def describe(function: NativeFunction[..., Any]) -> str:
    """A function in words."""
    attempts = "1 attempt" if function.max_attempts == 1 else f"{function.max_attempts} attempts"
    limits = f"{function.attempt_timeout_s:g} s an attempt, {attempts}"
    kind = "async" if function.spec.is_async else "in threads"
    return f"{function.name}: {function.spec} -> {', '.join(function.spec.outputs)} ({kind}, {limits})"


async def _serve(
    config: BusConfig, functions: Functions, settings: dict[str, Any], metrics_port: int | None, metrics_host: str
) -> None:
    exit_with_parent()
    with stop_signal() as stop:
        async with open_bus(config) as bus:
            host = NativeHost(bus, functions, **settings)
            condition = HostCondition(host.statistics, time.monotonic)
            async with (
                reporting_service(condition.read) as reporter,
                serving_metrics(metrics_port, metrics_host, lambda: _collectors(host)),
                host,
            ):
                condition.phase = "ready"
                reporter.tick()
                await stop.wait()
                condition.phase = "stopping"
                reporter.tick()
    done = host.statistics()
    num_ended = sum(sum(each.num_ended.values()) for each in done.functions.values())
    typer.echo(f"{num_ended} calls answered, {done.num_overdue} did not return")


class HostCondition:
    """How a host is, for the service manager: stuck when all of its places are taken by code that does not return.

    Attributes:
        phase: What it is in.
    """

    def __init__(self, read_statistics: Callable[[], HostStatistics], monotonic: Callable[[], float]) -> None:
        self._read_statistics = read_statistics
        self._monotonic = monotonic
        self._fine_at = monotonic()
        self.phase: Literal["starting", "ready", "stopping"] = "starting"

    def read(self) -> Condition:
        """How it is now."""
        host = self._read_statistics()
        if host.num_overdue < host.concurrency:
            self._fine_at = self._monotonic()
        num_running = sum(each.num_running for each in host.functions.values())
        overdue = f", {host.num_overdue} do not return" if host.num_overdue else ""
        return Condition(
            phase=self.phase,
            status=f"{', '.join(host.functions)}: {num_running}/{host.concurrency} running{overdue}",
            progress=num_running,
            is_alive=self._monotonic() - self._fine_at < STUCK_S,
        )


def _collectors(host: NativeHost) -> list[Collector]:
    from parrot_mq.native.metrics import NativeCollector

    return [NativeCollector(host.statistics)]
