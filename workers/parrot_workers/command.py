"""`parrot-mq worker`: run a worker in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parrot_mq.actors import ActorRef, ActorSystem, RestartPolicy
from parrot_mq.bus import Bus, BusConfig, open_bus
from parrot_mq.cli.metrics import MetricsHost, MetricsPort, serving_metrics
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.messages import LoadProgress, WorkerMessage
from parrot_mq.observability import configure_logging, reporting_service
from parrot_mq.tasks import task_group
from parrot_workers.board import WorkerBoard
from parrot_workers.condition import WorkerCondition
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import create_engine
from parrot_workers.loading_bar import loading_bar
from parrot_workers.slots import claim_gpu, slot_worker_id
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.worker import Drain, WorkerActor

if TYPE_CHECKING:
    from parrot_mq.observability.metrics import Collector

__all__ = ["serve", "worker"]

TINY = "tiny"


def worker(
    model: Annotated[
        str,
        typer.Option(
            envvar="PARROT_MQ_WORKER_MODEL_PATH",
            help="Folder of a Hugging Face checkpoint, or `tiny` for the model that comes with this package.",
        ),
    ],
    servers: Servers = "",
    served_as: Annotated[
        str, typer.Option(help="Name that tasks call the model by; the folder's name by default.")
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            envvar="PARROT_MQ_WORKER_WORKER_ID",
            help="Names this worker on the bus; a random name by default, or the machine's and the slot.",
        ),
    ] = "",
    slot: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of this worker on its machine: it takes the GPU /dev/nvidiaN, if there is any."
        ),
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Generations that run at a time.", show_default="64")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="auto")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", show_default="auto")] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_level: LogLevel = "info",
) -> None:
    """Run a worker: it loads a model and generates what the coordinator assigns.

    More settings come from the environment, as `PARROT_MQ_WORKER_…`. On SIGTERM it takes no more work, finishes what
    runs, and gives back the rest.
    """
    configure_logging(log_level, identifier="parrot-worker", fields=None if slot is None else {"slot": slot})
    if slot is not None:
        name = name or slot_worker_id(slot)
    settings: dict[str, object] = {"model_path": Path(model)}
    if model == TINY:
        settings = {"model_path": checkpoint_path(), "model_name": TINY}
    given = {"model_name": served_as, "worker_id": name, "num_slots": slots, "device": device, "dtype": dtype}
    settings |= {key: value for key, value in given.items() if value}
    run_async(_run(servers, settings, slot, metrics_port, metrics_host))


async def _run(
    servers: str, settings: dict[str, object], slot: int | None, metrics_port: int | None, metrics_host: str
) -> None:
    config = WorkerConfig.from_env(**settings)
    if slot is not None and config.device in ("auto", "cuda"):
        claim_gpu(slot)
    bus_settings = bus_config(servers, name=f"parrot-mq worker {config.worker_id}")
    await serve(bus_settings, config, metrics_port=metrics_port, metrics_host=metrics_host)


async def serve(
    bus_settings: BusConfig, config: WorkerConfig, *, metrics_port: int | None = None, metrics_host: str = "127.0.0.1"
) -> None:
    """Run a worker until SIGTERM or SIGINT, then drain it; one that still loads is stopped as soon as it can be.

    A service manager is told when it is ready, how it is, and for how long it needs to load and to drain.

    Args:
        bus_settings: Where the bus is.
        config: How the worker runs.
        metrics_port: Where metrics are served; not at all if None.
        metrics_host: On which address.

    Raises:
        CheckpointError: The model cannot be loaded.
        ConfigurationError: torch or transformers is not installed.
        RestartIntensityExceeded: The engine broke again and again.
    """
    exit_with_parent()
    board = WorkerBoard()
    condition = WorkerCondition(
        board, max_step_s=config.max_step_s, max_stage_s=config.max_stage_s, monotonic=time.monotonic
    )
    async with (
        reporting_service(condition.read) as reporter,
        open_bus(bus_settings) as bus,
        ActorSystem(config.worker_id, bus=bus) as system,
        serving_metrics(metrics_port, metrics_host, lambda: _collectors(board, system)),
    ):
        with stop_signal() as stop:
            with loading_bar() as show:
                actor = await _start(system, lambda: _make_actor(bus, config, show, board), config.drain_s + 5, stop)
            await stop.wait()
        condition.stop()
        reporter.tick()
        if actor is not None:
            await actor.tell(Drain())
            await actor.wait_stopped()


def _collectors(board: WorkerBoard, system: ActorSystem) -> list[Collector]:
    from parrot_mq.actors.metrics import ActorCollector
    from parrot_workers.metrics import WorkerCollector

    return [WorkerCollector(board.status, board.times.statistics), ActorCollector(system.statistics)]


def _make_actor(
    bus: Bus, config: WorkerConfig, show: Callable[[LoadProgress], None], board: WorkerBoard
) -> WorkerActor:
    return WorkerActor(bus, config, partial(create_engine, config), on_progress=show, board=board)


async def _start(
    system: ActorSystem, make: Callable[[], WorkerActor], stop_timeout_s: float, stop: asyncio.Event
) -> ActorRef | None:
    """Start the worker; None if it was stopped while it loaded."""
    async with task_group() as group:
        spawning = system.spawn(
            make, name="worker", restart=RestartPolicy.TRANSIENT, stop_timeout_s=stop_timeout_s, accepts=WorkerMessage
        )
        starting, stopping = group.create_task(spawning, name="start"), group.create_task(stop.wait(), name="stop")
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        stopping.cancel()
    return None if starting.cancelled() else starting.result()
