"""The worker: assignments in, tokens and values out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Literal

import msgspec

from parrot_mq.actors import Actor
from parrot_mq.bus import Bus, Delivery
from parrot_mq.errors import ConnectionClosed, GenerationAborted, ParrotError, TaskCancelled
from parrot_mq.messages import (
    ALL_REPLAYS,
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
    PrefillAhead,
    StandBy,
    WorkerStatus,
    encode,
)
from parrot_workers.ahead import Ahead
from parrot_workers.board import WorkerBoard
from parrot_workers.bridge import EngineFactory, EngineThread
from parrot_workers.config import WorkerConfig
from parrot_workers.engine.base import Delta, EngineEvent, Failed, Finished, Prefilled, Started
from parrot_workers.progress import Progress
from parrot_workers.prompts import Prompts
from parrot_workers.replays import Replays
from parrot_workers.reports import Reports
from parrot_workers.spans import Spans

__all__ = ["Drain", "WorkerActor"]

WorkerState = Literal["loading", "ready", "standby", "draining", "stopped"]

_BEATS_PER_WHOLE = 10
"""A heartbeat may be lost: after so many, everything is told again."""

_HEADER_BYTES = 64
"""Of the fields of a heartbeat that are added to it last."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no more work, finish what runs within the configured time, hand over the rest with its tokens so far."""


class WorkerActor(Actor):
    """Runs the generations that a coordinator assigns, on one engine.

    A value is stored before the generation leaves `running`, so a worker never says that it is done before it is. Its
    heartbeats carry the tokens of what runs, so that another worker can go on with it. If the engine breaks, the actor
    fails and starts again with a new engine; the coordinator assigns again what it had.

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
        board.read_step_s = lambda: self._engine.step_duration_s
        self._on_progress = on_progress
        self._stage = ""
        self._state: WorkerState = "loading"
        self._standby: asyncio.Task[object] | None = None  # ends it
        self._running: dict[str, Generation] = {}
        self._preparing: set[str] = set()  # of these, those that the engine has not got
        self._progress = Progress()
        self._replays = Replays(bus)
        self._spans = Spans(config.worker_id, config.model_name)
        self._ahead = Ahead(bus, self._engine.prefill)
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._num_slots = config.num_slots
        self._max_context_tokens = 0

    async def on_start(self) -> None:
        """Load the model; heartbeats go out meanwhile."""
        self._started_at = self._now()
        self._registry = self.context.system.remote(REGISTRY_ADDRESS)
        self._reports = Reports(self._bus, self._config.worker_id, self.context.clock, self._spans)
        self.context.run(self._beat(), name="heartbeat")
        self._stack = AsyncExitStack()
        try:
            for subject, handler in ((COORDINATOR_STARTED, self._on_coordinator), (ALL_REPLAYS, self._replays.answer)):
                subscription = await self._bus.subscribe(subject, handler)
                self._stack.push_async_callback(subscription.aclose)
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
        self._spans.end_all()
        try:
            if self._progress.has_news:
                self._state = "draining"
                await self._tell_progress()
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
            case PrefillAhead() if self._state == "ready":
                self._read_ahead(message)
            case StandBy(duration_s=duration_s) if self._state in ("ready", "standby"):
                await self._stand_by(duration_s)
            case Drain():
                self._read_ahead(PrefillAhead())
                await self._become("draining")
                self.context.run(self._drain(), name="drain")
        return None

    # -- status ------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        num_beats = 0
        while True:
            if num_beats % _BEATS_PER_WHOLE == 0:
                self._progress.tell_again()
            num_beats += 1
            await self._report()
            await self.context.clock.sleep(self._config.heartbeat_s)

    async def _on_coordinator(self, _: Delivery) -> None:
        self._progress.tell_again()
        await self._report()

    async def _become(self, state: WorkerState) -> None:
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

    async def _report(self) -> bool:
        """Send a status, with as much of what is new as one message has room for. Returns: whether more is left."""
        status = msgspec.structs.replace(self._status(), prefilled=self._ahead.take_computed())
        progress = self._progress.take(self._bus.max_payload - _HEADER_BYTES - len(encode(status)))
        has_more = bool(progress) and self._progress.has_news  # by now: what comes from here on is told by others
        await self._registry.tell(msgspec.structs.replace(status, progress=progress))
        return has_more

    async def _tell_progress(self) -> None:
        """Tell all that is new, in as many messages as it takes."""
        has_more = self._progress.has_news
        while has_more:
            has_more = await self._report()

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
            invocation=self._config.invocation,
        )

    # -- work --------------------------------------------------------------------------------------------------------

    def _accept(self, assign: Assign) -> Assigned:
        if self._state != "ready":
            return Assigned(refused=[generation.key for generation in assign.generations])
        new = {each.key: each for each in assign.generations if each.key not in self._running}
        if new:
            self._running.update(new)
            for key, generation in new.items():
                self._times.accept(key, now=self._now())
                self._progress.accept(generation)
                self._spans.begin(generation)
            self._preparing.update(new)
            self._is_idle.clear()
            prompts = Prompts(self._bus, assign.segments, latency_tpot_ms=self._config.latency_tpot_ms)
            self.context.run(self._begin(prompts, list(new.values())), name=f"begin:{assign.batch}")
        return Assigned()

    def _cancel(self, keys: list[str]) -> None:
        for key in self._preparing.intersection(keys):
            self._note_failed(key, TaskCancelled.code)
            self._forget(self._running[key])
        self._engine.cancel(keys)

    def _read_ahead(self, message: PrefillAhead) -> None:
        self.context.run(self._ahead.read(message), name="ahead")

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
        if isinstance(event, Prefilled):
            self._ahead.note_computed(event.key)
            return
        generation = self._running.get(event.key)
        if generation is None:
            return
        match event:
            case Started():
                now = self.context.clock.now()
                self._progress.start(event.key, num_prompt_tokens=event.num_prompt_tokens, now=now)
                self._spans.start(event)
                self._replays.begin(generation, event.text, self._reports.headers(generation))
                await self._reports.started(generation, event)
            case Delta():
                self._times.begin(event.key, now=self._now())
                self._replays.extend(event.key, event.text)
                await self._reports.delta(generation, event)
                # After its text: who goes on with the tokens that are told goes on behind text that was sent.
                self._progress.extend(event.key, event.output_ids)
            case Finished():
                self._progress.complete(event.key, event.output_ids)
                self._spans.complete(event)
                num_new = event.num_output_tokens - len(generation.output_ids)
                self._times.finish(event.key, num_output_tokens=num_new, now=self._now())
                self.context.run(self._finish(generation, event), name=f"finish:{event.key}")
            case Failed(error=TaskCancelled()):
                self._note_failed(event.key, TaskCancelled.code)
                self._forget(generation)
            case Failed(error=error):
                self.context.run(self._end(generation, error), name=f"end:{event.key}")

    # -- results -----------------------------------------------------------------------------------------------------

    async def _finish(self, generation: Generation, finished: Finished) -> None:
        started_at = self._progress.started_at(generation.key)
        await self._settle(generation, lambda: self._reports.value(generation, finished, started_at=started_at))

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
        """Hand generations over, with their tokens so far: those that have not ended while these were told."""
        await self._tell_progress()
        left = [generation for generation in generations if self._running.get(generation.key) is generation]
        if not left:
            return
        keys = [generation.key for generation in left]
        self._engine.cancel(keys)
        for generation in left:
            self._note_failed(generation.key, reason.code)
            self._forget(generation)
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
        self._spans.fail(key, code)

    def _forget(self, generation: Generation) -> None:
        self._running.pop(generation.key, None)
        self._progress.forget(generation.key)
        self._replays.forget(generation.key)
        self._spans.end(generation.key)
        self._preparing.discard(generation.key)
        if not self._running:
            self._is_idle.set()

    # -- standby -----------------------------------------------------------------------------------------------------

    async def _stand_by(self, duration_s: float) -> None:
        """Take nothing new for a while; said again, the time begins anew."""
        if self._standby is not None:
            self._standby.cancel()
            self._standby = None
        if duration_s > 0:
            self._standby = self.context.after(duration_s, StandBy(duration_s=0))
        state: WorkerState = "standby" if duration_s > 0 else "ready"
        if state != self._state:
            self._read_ahead(PrefillAhead())
            await self._become(state)

    # -- drain -------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait for what runs; hand over what does not end in time; then stop for good."""
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._is_idle.wait()
        except TimeoutError:
            await self._give_back(
                list(self._running.values()), GenerationAborted(f"worker {self._config.worker_id!r} is stopped")
            )
        await self._become("stopped")
        self.context.stop()
