"""A whole service on this machine: nats-server, coordinator, workers, native functions, as one process tree."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.cli.children import Child
from parrot_mq.cli.metrics import METRICS_PORT
from parrot_mq.errors import ActorError, DeadlineExceeded
from parrot_mq.messages import REGISTRY_ADDRESS, ServiceQuery, ServiceReport
from parrot_mq.tasks import task_group
from parrot_mq.types import fresh_id

__all__ = ["Stack", "StackOptions", "ask_registry", "open_stack"]

POLL_S = 0.05

Progress = Callable[[str], None]
"""Told what is being waited for, in words."""


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What to start.

    Attributes:
        model: Folder of a checkpoint, or `tiny` for the model that comes with this package.
        num_workers: Worker processes; each loads the model.
        num_slots: Generations that one worker runs at a time.
        port: Of the nats-server; 0 takes a free one.
        store_dir: Where facts are kept across restarts; None keeps them for as long as the stack runs.
        metrics_port: Of the coordinator; the workers take the next ones. None serves no metrics.
        native: Native functions that are served, too, as `parrot-mq native` takes them.
        log_level: Of coordinator and workers.
        ready_timeout_s: How long loading the model may take.
    """

    model: str = "tiny"
    num_workers: int = 1
    num_slots: int = 64
    port: int = 0
    store_dir: Path | None = None
    metrics_port: int | None = None
    native: tuple[str, ...] = ()
    log_level: str = "info"
    ready_timeout_s: float = 600.0


@dataclass(frozen=True)
class Stack:
    """A running service.

    Attributes:
        url: Address of its nats-server.
        server: The nats-server.
        coordinator: The coordinator's process.
        workers: The workers' processes.
        hosts: The process that serves native functions, if there are any.
        log_dir: Where they write their logs.
    """

    url: str
    server: NatsServer
    coordinator: Child
    workers: tuple[Child, ...]
    hosts: tuple[Child, ...]
    log_dir: Path

    @property
    def children(self) -> tuple[Child, ...]:
        """All processes but the server, in the order in which they are started."""
        return self.coordinator, *self.hosts, *self.workers


@asynccontextmanager
async def open_stack(options: StackOptions, progress: Progress = lambda _: None) -> AsyncIterator[Stack]:
    """Start everything, and stop it at the end of the block; the block begins when the model is loaded.

    Raises:
        ServerStartFailed: nats-server is missing, or its port is taken.
        ProcessFailed: The coordinator or a worker cannot run; says its last words.
        DeadlineExceeded: The model was not loaded in time.
    """
    with tempfile.TemporaryDirectory(prefix="parrot-mq-") as temporary:
        log_dir = (options.store_dir or Path(temporary)) / "logs"
        log_dir.mkdir(parents=True, exist_ok=True)
        progress("starting nats-server")
        server = NatsServer(port=options.port, store_dir=options.store_dir, log_file=log_dir / "nats-server.log")
        async with server:
            stack = _make_stack(options, server, log_dir)
            async with _keep_running(stack):
                await _wait_ready(stack.url, options, progress)
                yield stack


@asynccontextmanager
async def _keep_running(stack: Stack) -> AsyncIterator[None]:
    """Run the children during the block."""
    async with task_group() as group:
        children = [group.create_task(c.run(), name=f"child:{c.name}") for c in stack.children]
        try:
            yield
        finally:
            for child in reversed(children):
                if not child.cancelling():  # a second time, it would not wait for its process to stop
                    child.cancel()


def _make_stack(options: StackOptions, server: NatsServer, log_dir: Path) -> Stack:
    common = ["--servers", server.url, "--log-level", options.log_level]
    worker = ["worker", *common, "--model", options.model, "--slots", str(options.num_slots)]
    commands = {"coordinator": ["coordinator", *common]}
    commands |= {name: [*worker, "--name", name] for name in map("worker-{}".format, range(options.num_workers))}
    commands |= {"native": ["native", *common, *options.native]} if options.native else {}
    children = {
        name: Child(name, arguments, log_file=log_dir / f"{name}.log", env=_metrics_environment(options, index))
        for index, (name, arguments) in enumerate(commands.items())
    }
    return Stack(
        url=server.url,
        server=server,
        coordinator=children.pop("coordinator"),
        hosts=tuple(children.pop(name) for name in ("native",) if name in children),
        workers=tuple(children.values()),
        log_dir=log_dir,
    )


def _metrics_environment(options: StackOptions, index: int) -> dict[str, str]:
    """Each child has a port of its own, also where ours is in the environment."""
    return {METRICS_PORT: str(options.metrics_port + index) if options.metrics_port else ""}


async def _wait_ready(url: str, options: StackOptions, progress: Progress) -> None:
    progress("starting the coordinator")
    try:
        async with (
            asyncio.timeout(options.ready_timeout_s),
            open_bus(BusConfig.from_env(servers=(url,))) as bus,
            ActorSystem(fresh_id("up"), bus=bus) as system,
        ):
            while not _is_ready(await ask_registry(system), options, progress):  # noqa: ASYNC110, another process
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise DeadlineExceeded(what="starting the workers", timeout_s=options.ready_timeout_s) from error


def _is_ready(report: ServiceReport | None, options: StackOptions, progress: Progress) -> bool:
    if report is None:
        return False
    num_ready = sum(worker.state == "ready" for worker in report.workers)
    progress(f"loading the model ({num_ready} of {options.num_workers} workers ready){_slowest(report)}")
    return num_ready >= options.num_workers


def _slowest(report: ServiceReport) -> str:
    """What a worker that still loads is doing."""
    loading = [worker.loading for worker in report.workers if worker.loading is not None]
    return f": {loading[0].stage} {loading[0].fraction:.0%}" if loading else ""


async def ask_registry(system: ActorSystem, timeout_s: float = 2.0) -> ServiceReport | None:
    """Ask the coordinator who is there; None if no coordinator answers."""
    registry = system.remote(REGISTRY_ADDRESS, answers=ServiceReport)
    try:
        report: ServiceReport = await registry.ask(ServiceQuery(), timeout_s=timeout_s)
    except ActorError:
        return None
    return report
