"""The worker: assignments in, tokens and values out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Literal

from parrot_mq.actors import Actor
from parrot_mq.bus import Bus, Delivery
from parrot_mq.errors import ConnectionClosed, GenerationAborted, ParrotError, TaskCancelled
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    REGISTRY_ADDRESS,
    Assign,
    Assigned,
    CancelGenerations,
    EngineReport,
    ErrorInfo,
    Generation,
    GenerationsReturned,
    LoadProgress,
    PinPrefixes,
    WorkerStatus,
)
from parrot_workers.board import WorkerBoard
from parrot_workers.bridge import EngineFactory, EngineThread
from parrot_workers.config import WorkerConfig
from parrot_workers.engine.base import Delta, EngineEvent, Failed, Finished, Started
from parrot_workers.prompts import Prompts
from parrot_workers.reports import Reports

__all__ = ["ACCEPTS", "Drain", "WorkerActor"]

ACCEPTS = Assign | CancelGenerations | PinPrefixes
"""What a worker is told over the bus."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no more work, finish what runs within the configured time, give back the rest."""


class WorkerActor(Actor):
    """Runs the generations that a coordinator assigns, on one engine.

    A value is stored before the generation leaves `running`, so a worker never says that it is done before it is. If
    the engine breaks, the actor fails and starts again with a new engine; the coordinator assigns again what it had.

    Delivery: a generation that comes twice runs once; its variable is written once whoever else runs it.

    Args:
        bus: A connection.
        config: How it runs.
        factory: Makes its engine.
        on_progress: Told how far the factory is.
        board: Where it leaves what is to be seen of it.
    """

    def __init__(
        self,
        bus: Bus,
        config: WorkerConfig,
        factory: EngineFactory,
        *,
        on_progress: Callable[[LoadProgress], None] = lambda _: None,
        board: WorkerBoard | None = None,
    ) -> None:
        board = board or WorkerBoard()
        board.read_status = self._status
        self._times = board.times
        self._bus = bus
        self._config = config
        self._engine = EngineThread(factory, on_progress=self._note_progress)
        self._on_progress = on_progress
        self._stage = ""
        self._state: Literal["loading", "ready", "draining", "stopped"] = "loading"
        self._running: dict[str, Generation] = {}
        self._preparing: set[str] = set()  # of these, those that the engine has not got
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._num_slots = config.num_slots
        self._max_context_tokens = 0

    async def on_start(self) -> None:
        """Load the model; heartbeats go out meanwhile."""
        self._started_at = self._now()
        self._registry = self.context.system.remote(REGISTRY_ADDRESS)
        self._reports = Reports(self._bus, self._config.worker_id, self.context.clock)
        self.context.run(self._beat(), name="heartbeat")
        self._stack = AsyncExitStack()
        try:
            started = await self._bus.subscribe(COORDINATOR_STARTED, self._on_coordinator)
            self._stack.push_async_callback(started.aclose)
            await self._stack.enter_async_context(self._engine)
        except BaseException:
            await self._stack.aclose()
            raise
        self.context.log.info("engine_loaded", duration_s=self._seconds_since_start())
        self._num_slots = self._engine.num_slots
        self._max_context_tokens = self._engine.max_context_tokens
        self.context.run(self._read_events(), name="events")
        await self._become("ready")

    async def on_stop(self) -> None:
        for key in self._running:
            self._note_failed(key, GenerationAborted.code)
        try:
            await self._become("stopped")
        finally:
            await self._stack.aclose()

    async def receive(self, message: object) -> object:
        match message:
            case Assign():
                return self._accept(message)
            case CancelGenerations(keys=keys):
                self._cancel(keys)
            case PinPrefixes(hashes=hashes):
                self._engine.pin(hashes)
            case Drain():
                await self._become("draining")
                self.context.run(self._drain(), name="drain")
        return None

    # -- status ------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await self._report()
            await self.context.clock.sleep(self._config.heartbeat_s)

    async def _on_coordinator(self, _: Delivery) -> None:
        await self._report()

    async def _become(self, state: Literal["loading", "ready", "draining", "stopped"]) -> None:
        self._state = state
        self.context.log.info("worker_state", state=state, model=self._config.model_name)
        await self._report()

    def _note_progress(self, progress: LoadProgress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self.context.log.info("engine_loading", stage=progress.stage, after_s=self._seconds_since_start())
        self._on_progress(progress)

    def _seconds_since_start(self) -> float:
        return round(self._now() - self._started_at, 3)

    async def _report(self) -> None:
        await self._registry.tell(self._status())

    def _status(self) -> WorkerStatus:
        is_loading = self._state == "loading"
        return WorkerStatus(
            worker=self._config.worker_id,
            model=self._config.model_name,
            state=self._state,
            num_slots=self._num_slots,
            max_context_tokens=self._max_context_tokens,
            running=list(self._running),
            loading=self._engine.progress if is_loading else None,
            engine=None if is_loading else EngineReport(**asdict(self._engine.statistics())),
        )

    # -- work --------------------------------------------------------------------------------------------------------

    def _accept(self, assign: Assign) -> Assigned:
        if self._state != "ready":
            return Assigned(refused=[generation.key for generation in assign.generations])
        new = {each.key: each for each in assign.generations if each.key not in self._running}
        if new:
            self._running.update(new)
            for key in new:
                self._times.accept(key, now=self._now())
            self._preparing.update(new)
            self._is_idle.clear()
            self.context.run(
                self._begin(Prompts(self._bus, assign.segments), list(new.values())), name=f"begin:{assign.batch}"
            )
        return Assigned()

    def _cancel(self, keys: list[str]) -> None:
        for key in self._preparing.intersection(keys):
            self._note_failed(key, TaskCancelled.code)
            self._forget(self._running[key])
        self._engine.cancel(keys)

    async def _begin(self, prompts: Prompts, generations: list[Generation]) -> None:
        requests = []
        for generation in generations:
            try:
                requests.append(await prompts.read(generation))
            except Exception as error:
                await self._end(generation, error)
        requests = [request for request in requests if request.key in self._preparing]  # not cancelled meanwhile
        self._preparing.difference_update(generation.key for generation in generations)
        if requests:
            await self._engine.submit(requests)

    async def _read_events(self) -> None:
        async for events in self._engine.events():
            for event in events:
                await self._handle(event)

    async def _handle(self, event: EngineEvent) -> None:
        generation = self._running.get(event.key)
        if generation is None:
            return
        match event:
            case Started():
                await self._reports.started(generation, event)
            case Delta():
                self._times.begin(event.key, now=self._now())
                await self._reports.delta(generation, event)
            case Finished():
                self._times.finish(event.key, num_output_tokens=event.num_output_tokens, now=self._now())
                self.context.run(self._finish(generation, event), name=f"finish:{event.key}")
            case Failed(error=TaskCancelled()):
                self._note_failed(event.key, TaskCancelled.code)
                self._forget(generation)
            case Failed(error=error):
                self.context.run(self._end(generation, error), name=f"end:{event.key}")

    # -- results -----------------------------------------------------------------------------------------------------

    async def _finish(self, generation: Generation, finished: Finished) -> None:
        await self._settle(generation, lambda: self._reports.value(generation, finished))

    async def _end(self, generation: Generation, error: Exception) -> None:
        """Say why there is no value; what may go better another time is given back."""
        if isinstance(error, ConnectionClosed):
            raise error
        self._note_failed(generation.key, ErrorInfo.from_error(error).code)
        if isinstance(error, ParrotError) and error.retryable:
            await self._give_back([generation], error)
        else:
            await self._settle(generation, lambda: self._reports.error(generation, error))

    async def _settle(self, generation: Generation, report: Callable[[], Awaitable[None]]) -> None:
        """Store a result, and only then forget the generation; if the server refuses it, give it back."""
        try:
            await report()
        except ConnectionClosed:
            raise
        except ParrotError as error:
            await self._give_back([generation], error)
        else:
            self._forget(generation)

    async def _give_back(self, generations: list[Generation], reason: ParrotError) -> None:
        for generation in generations:
            self._note_failed(generation.key, reason.code)
            self._forget(generation)
        keys = [generation.key for generation in generations]
        returned = GenerationsReturned(
            worker=self._config.worker_id,
            model=self._config.model_name,
            keys=keys,
            reason=ErrorInfo.from_error(reason),
        )
        await self._registry.tell(returned)

    def _now(self) -> float:
        return self.context.clock.monotonic()

    def _note_failed(self, key: str, code: str) -> None:
        self._times.fail(key, code, now=self._now())

    def _forget(self, generation: Generation) -> None:
        self._running.pop(generation.key, None)
        self._preparing.discard(generation.key)
        if not self._running:
            self._is_idle.set()

    # -- drain -------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait for what runs; give back what does not end in time; then stop for good."""
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._is_idle.wait()
        except TimeoutError:
            left = list(self._running.values())
            self._engine.cancel(generation.key for generation in left)
            await self._give_back(left, GenerationAborted(f"worker {self._config.worker_id!r} is stopped"))
        await self._become("stopped")
        self.context.stop()
