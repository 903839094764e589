"""`parrot-mq worker`: run a worker in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from parrot_mq.actors import ActorSystem, RestartPolicy
from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.cli.options import LogLevel, Servers, bus_config
from parrot_mq.cli.process import exit_with_parent, run_async, stop_signal
from parrot_mq.observability import configure_logging
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import create_engine
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.worker import ACCEPTS, Drain, WorkerActor

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
    name: Annotated[str, typer.Option(help="Names this worker on the bus; a random name by default.")] = "",
    slots: Annotated[int | None, typer.Option(help="Generations that run at a time.", show_default="64")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="auto")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", show_default="auto")] = None,
    log_level: LogLevel = "info",
) -> None:
    """Run a worker: it loads a model and generates what the coordinator assigns.

    More settings come from the environment, as `PARROT_MQ_WORKER_…`. On SIGTERM it takes no more work, finishes what
    runs, and gives back the rest.
    """
    configure_logging(log_level)
    settings: dict[str, object] = {"model_path": Path(model)}
    if model == TINY:
        settings = {"model_path": checkpoint_path(), "model_name": TINY}
    given = {"model_name": served_as, "worker_id": name, "num_slots": slots, "device": device, "dtype": dtype}
    settings |= {key: value for key, value in given.items() if value}
    run_async(_run(servers, settings))


async def _run(servers: str, settings: dict[str, object]) -> None:
    config = WorkerConfig.from_env(**settings)
    await serve(bus_config(servers, name=f"parrot-mq worker {config.worker_id}"), config)


async def serve(bus_settings: BusConfig, config: WorkerConfig) -> None:
    """Run a worker until SIGTERM or SIGINT, then drain it.

    Raises:
        CheckpointError: The model cannot be loaded.
        ConfigurationError: torch or transformers is not installed.
        RestartIntensityExceeded: The engine broke again and again.
    """
    exit_with_parent()
    async with open_bus(bus_settings) as bus, ActorSystem(config.worker_id, bus=bus) as system:
        with stop_signal() as stop:
            actor = await system.spawn(
                lambda: WorkerActor(bus, config, partial(create_engine, config)),
                name="worker",
                restart=RestartPolicy.TRANSIENT,
                stop_timeout_s=config.drain_s + 5,
                accepts=ACCEPTS,
            )
            await stop.wait()
        await actor.tell(Drain())
        await actor.wait_stopped()
