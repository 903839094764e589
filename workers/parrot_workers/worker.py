"""The worker: assignments in, tokens and values out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal

from parrot_mq.actors import Actor
from parrot_mq.bus import Bus, Delivery, fail_variable, fetch_text, set_variable
from parrot_mq.errors import GenerationAborted, ParrotError, TaskCancelled, VariableAlreadySet
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    REGISTRY_ADDRESS,
    Assign,
    Assigned,
    BlobRef,
    CancelGenerations,
    ErrorInfo,
    Generation,
    GenerationsReturned,
    TaskEvent,
    TokenDelta,
    VariableAddress,
    WorkerStatus,
    encode,
    event_subject,
    stream_subject,
)
from parrot_mq.messages.wire import EventKind
from parrot_mq.types import SessionId, TenantId, VariableId
from parrot_workers.bridge import EngineThread
from parrot_workers.config import WorkerConfig
from parrot_workers.engine.base import Delta, Engine, EngineEvent, Failed, Finished, GenerationRequest, Started

__all__ = ["ACCEPTS", "Drain", "WorkerActor"]

ACCEPTS = Assign | CancelGenerations
"""What a worker is told over the bus."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no more work, finish what runs within the configured time, give back the rest."""


class WorkerActor(Actor):
    """Runs the generations that a coordinator assigns, on one engine.

    A value is stored before the generation leaves `running`, so a worker never says that it is done before it is. If the
    engine breaks, the actor fails and starts again with a new engine; the coordinator assigns again what it had.

    Delivery: a generation that comes twice runs once; its variable is written once whoever else runs it.
    """

    def __init__(self, bus: Bus, config: WorkerConfig, factory: Callable[[], Engine]) -> None:
        self._bus = bus
        self._config = config
        self._factory = factory
        self._state: Literal["loading", "ready", "draining", "stopped"] = "loading"
        self._running: dict[str, Generation] = {}
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._num_slots = config.num_slots
        self._max_context_tokens = 0

    async def on_start(self) -> None:
        """Load the model; heartbeats go out meanwhile."""
        self._registry = self.context.system.remote(REGISTRY_ADDRESS)
        self.context.run(self._beat(), name="heartbeat")
        self._stack = AsyncExitStack()
        try:
            started = await self._bus.subscribe(COORDINATOR_STARTED, self._on_coordinator)
            self._stack.push_async_callback(started.aclose)
            self._engine = await self._stack.enter_async_context(EngineThread(self._factory))
        except BaseException:
            await self._stack.aclose()
            raise
        self._num_slots = self._engine.num_slots
        self._max_context_tokens = self._engine.max_context_tokens
        self.context.run(self._read_events(), name="events")
        await self._become("ready")

    async def on_stop(self) -> None:
        await self._become("stopped")
        await self._stack.aclose()

    async def receive(self, message: object) -> object:
        match message:
            case Assign():
                return self._accept(message)
            case CancelGenerations(keys=keys):
                self._engine.cancel(keys)
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

    async def _report(self) -> None:
        status = WorkerStatus(
            worker=self._config.worker_id,
            model=self._config.model_name,
            state=self._state,
            num_slots=self._num_slots,
            max_context_tokens=self._max_context_tokens,
            running=list(self._running),
        )
        await self._registry.tell(status)

    # -- work --------------------------------------------------------------------------------------------------------

    def _accept(self, assign: Assign) -> Assigned:
        if self._state != "ready":
            return Assigned(refused=[generation.key for generation in assign.generations])
        new = [generation for generation in assign.generations if generation.key not in self._running]
        self._running.update((generation.key, generation) for generation in new)
        self._is_idle.clear()
        self.context.run(self._begin(assign.segments, new), name=f"begin:{assign.batch}")
        return Assigned()

    async def _begin(self, segments: list[str | BlobRef], generations: list[Generation]) -> None:
        texts = dict(enumerate(segments))
        requests = []
        for generation in generations:
            try:
                prompt = "".join([await self._text(texts, index, generation.tenant) for index in generation.prompt])
            except ParrotError as error:
                await self._store_error(generation, error)
            else:
                requests.append(_to_request(generation, prompt))
        if requests:
            await self._engine.submit(requests)

    async def _text(self, texts: dict[int, str | BlobRef], index: int, tenant: str) -> str:
        text = texts[index]
        if not isinstance(text, str):
            text = texts[index] = await fetch_text(self._bus, tenant, text)
        return text

    async def _read_events(self) -> None:
        async for events in self._engine.events():
            for event in events:
                await self._handle(event)

    async def _handle(self, event: EngineEvent) -> None:
        generation = self._running.get(event.key)
        if generation is None:
            return
        match event:
            case Started(num_prompt_tokens=num_prompt, num_shared_tokens=num_shared):
                await self._tell(generation, "started", num_prompt_tokens=num_prompt, num_shared_tokens=num_shared)
            case Delta(text=text, offset=offset):
                subject = stream_subject(generation.tenant, generation.session, generation.variable)
                delta = TokenDelta(attempt=generation.attempt, offset=offset, text=text)
                await self._bus.publish(subject, encode(delta))
            case Finished():
                self.context.run(self._store(generation, event), name=f"store:{event.key}")
            case Failed(error=TaskCancelled()):
                self._forget(generation)
            case Failed(error=error) if error.retryable:
                await self._give_back([generation], error)
            case Failed(error=error):
                self.context.run(self._store_error(generation, error), name=f"store:{event.key}")

    # -- results -----------------------------------------------------------------------------------------------------

    async def _store(self, generation: Generation, finished: Finished) -> None:
        try:
            await set_variable(self._bus, _address(generation), finished.text, producer=self._config.worker_id)
        except VariableAlreadySet:
            self.context.log.info("result_not_needed", variable=generation.variable, session=generation.session)
        else:
            await self._tell(
                generation,
                "finished",
                num_prompt_tokens=finished.num_prompt_tokens,
                num_shared_tokens=finished.num_shared_tokens,
                num_output_tokens=finished.num_output_tokens,
            )
        self._forget(generation)

    async def _store_error(self, generation: Generation, error: ParrotError) -> None:
        self.context.log.warning("generation_failed", variable=generation.variable, error=error.message)
        await fail_variable(self._bus, _address(generation), error, producer=self._config.worker_id)
        self._forget(generation)

    async def _give_back(self, generations: list[Generation], reason: ParrotError) -> None:
        for generation in generations:
            self._forget(generation)
        keys = [generation.key for generation in generations]
        returned = GenerationsReturned(
            worker=self._config.worker_id,
            model=self._config.model_name,
            keys=keys,
            reason=ErrorInfo.from_error(reason),
        )
        await self._registry.tell(returned)

    def _forget(self, generation: Generation) -> None:
        self._running.pop(generation.key, None)
        if not self._running:
            self._is_idle.set()

    async def _tell(
        self,
        generation: Generation,
        kind: EventKind,
        *,
        num_prompt_tokens: int,
        num_shared_tokens: int,
        num_output_tokens: int = 0,
    ) -> None:
        event = TaskEvent(
            kind=kind,
            task=generation.task,
            variable=generation.variable,
            at=self.context.clock.now(),
            worker=self._config.worker_id,
            num_prompt_tokens=num_prompt_tokens,
            num_shared_tokens=num_shared_tokens,
            num_output_tokens=num_output_tokens,
        )
        await self._bus.publish(event_subject(generation.tenant, generation.session, kind), encode(event))

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


def _to_request(generation: Generation, prompt: str) -> GenerationRequest:
    return GenerationRequest(
        key=generation.key,
        prompt=prompt,
        sampling=generation.sampling,
        seed=_seed(generation),
        prefix_hashes=tuple(generation.prefix_hashes),
        deadline=generation.deadline,
    )


def _seed(generation: Generation) -> int:
    """The task's own seed, or one made of its address: the same at every attempt and on every worker."""
    if generation.sampling.seed is not None:
        return generation.sampling.seed
    return int.from_bytes(hashlib.blake2b(generation.key.encode(), digest_size=8).digest())


def _address(generation: Generation) -> VariableAddress:
    return VariableAddress(TenantId(generation.tenant), SessionId(generation.session), VariableId(generation.variable))
