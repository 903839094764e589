"""`parrot-mq autoscale`: start and stop this machine's workers as the work comes and goes."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from parrot_mq.actors import ActorSystem
from parrot_mq.autoscale.autoscaler import AutoscalerActor, AutoscalerBoard
from parrot_mq.autoscale.memory import MemoryFile
from parrot_mq.autoscale.settings import AutoscalerConfig, load_settings
from parrot_mq.autoscale.systemd import Systemd
from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import run_async, stop_signal
from parrot_mq.messages import ScalingDecision
from parrot_mq.observability import Condition, configure_logging, reporting_service
from parrot_mq.types import fresh_id

__all__ = ["AutoscalerCondition", "autoscale", "autoscaler_name", "default_config"]

STUCK_S = 60.0
"""An autoscaler that has not looked for so long is stuck."""


def autoscale(
    servers: Servers = "",
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="PARROT_MQ_AUTOSCALER_CONFIG",
            help="TOML file with a table for each model.",
            show_default="/etc/parrot-mq/autoscaler.toml",
        ),
    ] = None,
    user: Annotated[
        bool, typer.Option("--user", help="Units of this user's own service manager, not of the machine's.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Look, decide and act once, and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each decision as one line of JSON, for programs.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            envvar="PARROT_MQ_AUTOSCALER_STATE",
            help="File that keeps across restarts which workers are the autoscaler's.",
            show_default="autoscaler.json in $STATE_DIRECTORY",
        ),
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Run an autoscaler: it starts and stops `parrot-worker@N.service` so that the work is done in time.

    It follows what the coordinator says there is to do, not how many messages wait. What somebody else has started it
    counts, and never stops. It changes nothing while it does not know what there is to do, or what runs. To pause it,
    stop it: workers go on. To keep a slot free, mask its unit.

    A file of settings needs a table for each model: `[models.tiny]` with `slots = "0-3"`, and if need be `min_workers`,
    `max_workers`, and the other settings of the policy.
    """
    configure_logging(log_level, identifier="parrot-autoscaler")
    connection = bus_config(servers, name="parrot-mq autoscale")
    settings = load_settings(config or default_config(user=user, environ=os.environ))
    name = autoscaler_name(user=user)
    board = AutoscalerBoard(on_decision=_print_json if as_json else lambda _: None)
    file = MemoryFile(state or _state_file(os.environ), is_shared=dry_run)
    run_async(_run(connection, settings, file, board, name=name, user=user, is_dry_run=dry_run, once=once))
    if once and board.problem:
        typer.secho(f"nothing was changed: {board.problem}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


async def _run(
    connection: BusConfig,
    settings: AutoscalerConfig,
    file: MemoryFile,
    board: AutoscalerBoard,
    *,
    name: str,
    user: bool,
    is_dry_run: bool,
    once: bool,
) -> None:
    with file, stop_signal() as stop:
        board.on_tick = stop.set if once else board.on_tick
        async with (
            Systemd(user=user) as systemd,
            open_bus(connection) as bus,
            ActorSystem(fresh_id("autoscaler"), bus=bus) as system,
        ):
            condition = AutoscalerCondition(board, time.monotonic)
            async with reporting_service(condition.read) as reporter:
                await system.spawn(
                    lambda: AutoscalerActor(
                        bus, systemd, settings, name=name, file=file, board=board, is_dry_run=is_dry_run
                    ),
                    name="autoscaler",
                )
                await stop.wait()
                condition.is_stopping = True
                reporter.tick()


class AutoscalerCondition:
    """How an autoscaler is, for the service manager: ready when it has looked once, stuck when it looks no more.

    Without a server or without D-Bus it goes on looking; starting it again would not help.

    Attributes:
        is_stopping: It was asked to stop.
    """

    def __init__(self, board: AutoscalerBoard, monotonic: Callable[[], float]) -> None:
        self._board = board
        self._monotonic = monotonic
        self._began_at = monotonic()
        self.is_stopping = False

    def read(self) -> Condition:
        """How it is now."""
        if self.is_stopping:
            return Condition(phase="stopping", status="stopping; workers go on")
        ticked_at = self._board.ticked_at
        is_alive = self._monotonic() - (self._began_at if ticked_at is None else ticked_at) < STUCK_S
        if ticked_at is None:
            return Condition(phase="starting", status="looking for the first time", is_alive=is_alive)
        return Condition(phase="ready", status=self._board.status, is_alive=is_alive)


def default_config(*, user: bool, environ: Mapping[str, str]) -> Path:
    """Where the settings are if nobody says where."""
    if not user:
        return Path("/etc/parrot-mq/autoscaler.toml")
    home = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "parrot-mq" / "autoscaler.toml"


def autoscaler_name(*, user: bool) -> str:
    """How others see it: one for each service manager."""
    return socket.gethostname() + (f":{getpass.getuser()}" if user else "")


def _state_file(environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(folder) / "autoscaler.json" if folder else None


def _print_json(decision: ScalingDecision) -> None:
    sys.stdout.write(msgspec.json.encode(decision).decode() + "\n")
    sys.stdout.flush()
