"""A worker without a model: it speaks the protocol of the wire, and takes the time that a latency model tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from parrot_mq.actors import Actor, ActorRef, ActorSystem, RestartPolicy
from parrot_mq.bus import Bus, Delivery, Subscription, answer_replay, fail_variable, fetch_text, set_variable
from parrot_mq.clock import Clock
from parrot_mq.errors import (
    ConnectionClosed,
    EngineFailure,
    GenerationAborted,
    InvalidName,
    ParrotError,
    TaskCancelled,
    TransportError,
    VariableAlreadySet,
)
from parrot_mq.messages import (
    ALL_REPLAYS,
    COORDINATOR_STARTED,
    REGISTRY_ADDRESS,
    Assign,
    Assigned,
    BlobRef,
    CancelGenerations,
    ErrorInfo,
    Generation,
    GenerationProgress,
    GenerationsReturned,
    PinPrefixes,
    PrefillAhead,
    StandBy,
    TaskEvent,
    TokenDelta,
    Usage,
    VariableAddress,
    WorkerMessage,
    WorkerStatus,
    encode_json,
    event_subject,
    parse_replay,
    stream_subject,
)
from parrot_mq.observability import TraceContext, parse_trace, trace_headers, use_trace
from parrot_mq.program import chain_digests, segment_digest
from parrot_mq.testing.latency_model import A100_7B, LatencyModel
from parrot_mq.testing.simulated_engine import SimulatedEngine
from parrot_mq.testing.simulated_requests import (
    EngineEvent,
    Failed,
    Finished,
    Prefilled,
    SimulatedPrefill,
    SimulatedRequest,
    SimulatedSegment,
    Started,
    Token,
    count_tokens,
)
from parrot_mq.testing.simulated_texts import Answer, SimulatedText, write_output
from parrot_mq.testing.virtual_time import SimulatedClock
from parrot_mq.types import Objective, SessionId, TenantId, VariableId, WorkerId, check_name, fresh_id

__all__ = ["SimulatedWorker", "SimulatedWorkerConfig", "simulated_worker"]

_BEATS_PER_WHOLE = 10  # every so many heartbeats tell all tokens and not only the new ones
_RETRY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class SimulatedWorkerConfig:
    """How a simulated worker runs.

    Attributes:
        worker_id: Names it on the bus; unique.
        model: What it serves.
        latency: How long steps of its engine take.
        num_slots: As for `SimulatedEngine`, with the next four.
        heartbeat_s: Seconds between two heartbeats.
        drain_s: Seconds that running generations get to finish when it is drained.
        latency_tpot_ms: Milliseconds that each token of an output may take that somebody waits for, if nothing else is
            said; 0 sets no target.
        tokens_per_delta: Tokens in one message to those who read along; 0 sends none.
        invocation: Names this run of the unit that it is in, if a test plays systemd.
    """

    worker_id: str = field(default_factory=lambda: WorkerId(fresh_id("worker")))
    model: str = "simulated"
    latency: LatencyModel = A100_7B
    num_slots: int = 64
    capacity_tokens: int = 100_000
    max_step_tokens: int = 2048
    prefix_cache: bool = True
    cascade: bool = True
    heartbeat_s: float = 1.0
    drain_s: float = 30.0
    latency_tpot_ms: float = 200.0
    tokens_per_delta: int = 1
    invocation: str = ""

    def __post_init__(self) -> None:
        check_name("worker", self.worker_id)

    def make_engine(self) -> SimulatedEngine:
        """An engine of this kind."""
        return SimulatedEngine(
            self.latency,
            num_slots=self.num_slots,
            capacity_tokens=self.capacity_tokens,
            max_step_tokens=self.max_step_tokens,
            prefix_cache=self.prefix_cache,
            cascade=self.cascade,
        )


@dataclass(frozen=True, slots=True)
class _Drain:
    """Take no more work, finish what runs in time, give back the rest."""


@dataclass(slots=True)
class _Job:
    """A generation at this worker; `output` is there once its prompt is."""

    generation: Generation
    num_told: int
    num_tokens: int
    output: SimulatedText | None = None
    num_sent: int = 0  # tokens whose text was sent to readers
    num_prompt_tokens: int = 0
    started_at: float = 0.0
    has_news: bool = False

    @property
    def address(self) -> VariableAddress:
        each = self.generation
        return VariableAddress(TenantId(each.tenant), SessionId(each.session), VariableId(each.variable))

    @property
    def trace(self) -> TraceContext | None:
        """Where it belongs in a trace."""
        return parse_trace(self.generation.trace, self.generation.trace_state)

    def take_progress(self) -> GenerationProgress:
        """What has not been told; it counts as told."""
        begin, self.num_told, self.has_news = self.num_told, self.num_tokens, False
        ids = self.output.token_ids if self.output is not None else self.generation.output_ids
        return GenerationProgress(
            key=self.generation.key,
            attempt=self.generation.attempt,
            begin=begin,
            output_ids=list(ids[begin : self.num_tokens]),
            num_prompt_tokens=self.num_prompt_tokens,
        )


class _WorkerActor(Actor):
    """Runs what a coordinator assigns on one simulated engine.

    A value is stored before the generation leaves `running`, as with a real worker.
    """

    def __init__(self, bus: Bus, config: SimulatedWorkerConfig, answer: Answer | None) -> None:
        self._bus = bus
        self._config = config
        self._answer = answer
        self.engine = config.make_engine()
        self.may_run = asyncio.Event()
        self.may_run.set()
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._state: Literal["ready", "standby", "draining", "stopped"] = "ready"
        self._standby: asyncio.Task[object] | None = None  # ends it
        self._jobs: dict[str, _Job] = {}
        self._prefilled: list[str] = []
        self._num_aheads = 0

    async def on_start(self) -> None:
        """Listen, say that it is there, and work."""
        self._registry = self.context.system.remote(REGISTRY_ADDRESS)
        self._started: Subscription = await self._bus.subscribe(COORDINATOR_STARTED, self._on_coordinator)
        self._asked: Subscription = await self._bus.subscribe(ALL_REPLAYS, self._on_replay)
        self.context.run(self._beat(), name="heartbeat")
        self.context.run(self._work(), name="engine")

    async def on_stop(self) -> None:
        try:
            if self._state != "stopped":
                await self._become("stopped")
        finally:
            await self._asked.aclose()
            await self._started.aclose()

    async def receive(self, message: object) -> object:
        await self.may_run.wait()
        match message:
            case Assign():
                return self._accept(message)
            case CancelGenerations(keys=keys):
                self._cancel(keys)
            case PinPrefixes(hashes=hashes):
                self.engine.pin(hashes)
            case PrefillAhead():
                self._num_aheads += 1
                self.context.run(self._prefill(message, self._num_aheads), name="prefill")
            case StandBy(duration_s=duration_s) if self._state in ("ready", "standby"):
                await self._stand_by(duration_s)
            case _Drain():
                await self._become("draining")
                self.engine.prefill([])
                self.context.run(self._drain(), name="drain")
        return None

    # -- status ------------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        num_beats = 0
        while True:
            await self.may_run.wait()
            if num_beats % _BEATS_PER_WHOLE == 0:
                self._tell_again()
            num_beats += 1
            await self._report()
            await self.context.clock.sleep(self._config.heartbeat_s)

    async def _on_coordinator(self, _: Delivery) -> None:
        await self.may_run.wait()
        self._tell_again()
        await self._report()

    def _tell_again(self) -> None:
        for job in self._jobs.values():
            job.num_told, job.has_news = 0, True

    async def _stand_by(self, duration_s: float) -> None:
        if self._standby is not None:
            self._standby.cancel()
        self._standby = self.context.after(duration_s, StandBy(duration_s=0)) if duration_s > 0 else None
        await self._become("standby" if duration_s > 0 else "ready")

    async def _become(self, state: Literal["ready", "standby", "draining", "stopped"]) -> None:
        self._state = state
        await self._report()

    async def _report(self) -> None:
        prefilled, self._prefilled = self._prefilled, []
        status = WorkerStatus(
            worker=self._config.worker_id,
            model=self._config.model,
            state=self._state,
            num_slots=self._config.num_slots,
            max_context_tokens=self.engine.capacity_tokens,
            running=list(self._jobs),
            progress=[job.take_progress() for job in self._jobs.values() if job.has_news],
            prefilled=prefilled,
            engine=self.engine.report(),
            invocation=self._config.invocation,
        )
        await self._registry.tell(status)

    # -- work --------------------------------------------------------------------------------------------------------

    def _accept(self, assign: Assign) -> Assigned:
        if self._state != "ready":
            return Assigned(refused=[generation.key for generation in assign.generations])
        new = [generation for generation in assign.generations if generation.key not in self._jobs]
        for generation in new:
            num_known = len(generation.output_ids)
            self._jobs[generation.key] = _Job(generation, num_known, num_known, num_sent=num_known)
        if new:
            self._is_idle.clear()
            self.context.run(self._begin(assign.segments, new), name=f"begin:{assign.batch}")
        return Assigned()

    def _cancel(self, keys: list[str]) -> None:
        for key in keys:
            if (job := self._jobs.get(key)) is not None and job.output is None:
                self._forget(key)
        self.engine.cancel(keys)
        self._has_work.set()

    async def _begin(self, segments: Sequence[str | BlobRef], generations: Sequence[Generation]) -> None:
        requests = []
        for generation in generations:
            try:
                request = await self._read(segments, generation)
            except Exception as error:
                await self._end(generation, error)
            else:
                requests += [request] if request is not None else []
        self.engine.submit(requests)
        self._has_work.set()

    async def _read(self, segments: Sequence[str | BlobRef], generation: Generation) -> SimulatedRequest | None:
        """Put a prompt together, and decide what will be written; None if it was cancelled meanwhile."""
        texts = [await _text(self._bus, generation.tenant, segments[index]) for index in generation.prompt]
        job = self._jobs.get(generation.key)
        if job is None or job.generation is not generation:
            return None
        output = write_output(generation, "".join(texts), self._answer)
        if output.token_ids[: job.num_tokens] != tuple(generation.output_ids):
            raise EngineFailure(cause="the tokens of the earlier attempt are not the beginning of this output")
        job.output = output
        hashes = generation.prefix_hashes
        return SimulatedRequest(
            key=generation.key,
            segments=_segments(hashes, texts),
            num_output_tokens=len(output.token_ids),
            salt=generation.salt or generation.tenant,
            deadline=generation.deadline,
            num_continued_tokens=job.num_tokens,
            output_hash=chain_digests([segment_digest(output.text)], after=hashes[-1] if hashes else "")[0],
            tpot_target_s=self._tpot_target_s(generation.objective),
        )

    def _tpot_target_s(self, objective: Objective) -> float | None:
        if objective.kind == "throughput":
            return None
        return (objective.tpot_ms or self._config.latency_tpot_ms) / 1000 or None

    async def _prefill(self, ahead: PrefillAhead, number: int) -> None:
        prefills = []
        for each in ahead.prefills if self._state == "ready" else ():
            tenant = each.key.partition(".")[0]
            texts = [await _text(self._bus, tenant, ahead.segments[index]) for index in each.prompt]
            segments = _segments(each.prefix_hashes, texts)
            prefills.append(SimulatedPrefill(each.key, segments, each.salt or tenant))
        if number == self._num_aheads:  # else a newer set has come
            self.engine.prefill(prefills)
            self._has_work.set()

    async def _work(self) -> None:
        """Let the engine step as long as it has something to do."""
        clock = self.context.clock
        while True:
            await self.may_run.wait()
            if not self.engine.has_work:
                self._has_work.clear()
                await self._has_work.wait()
                continue
            duration_s, events = self.engine.step(clock.now())
            assert duration_s or events, "the engine has work and does nothing"
            await clock.sleep(duration_s)
            await self.may_run.wait()
            for event in events:
                await self._handle(event)

    async def _handle(self, event: EngineEvent) -> None:
        if isinstance(event, Prefilled):
            self._prefilled.append(event.key)
            return
        job = self._jobs.get(event.key)
        if job is None:
            return
        match event:
            case Started():
                job.num_prompt_tokens, job.started_at = event.num_prompt_tokens, self.context.clock.now()
                job.has_news = True
                await self._tell(job, event)
            case Token(index=index):
                job.num_tokens, job.has_news = index + 1, True
                await self._send(job, self._config.tokens_per_delta)
            case Finished():
                await self._send(job, 1)
                self.context.run(self._finish(job, event), name=f"finish:{event.key}")
            case Failed(error=TaskCancelled()):
                self._forget(event.key)
            case Failed(error=error):
                self.context.run(self._end(job.generation, error), name=f"end:{event.key}")

    # -- what is said ------------------------------------------------------------------------------------------------

    async def _send(self, job: _Job, min_tokens: int) -> None:
        """Send new text to who reads along, once there is enough of it."""
        if not self._config.tokens_per_delta or job.num_tokens - job.num_sent < min_tokens or job.output is None:
            return
        each, text = job.generation, job.output.piece(job.num_sent, job.num_tokens)
        offset = len(job.output.piece(0, job.num_sent))
        job.num_sent = job.num_tokens
        delta = TokenDelta(attempt=each.attempt, offset=offset, text=text)
        subject = stream_subject(each.tenant, each.session, each.variable)
        await self._bus.publish(subject, encode_json(delta), headers=trace_headers(job.trace))

    async def _on_replay(self, request: Delivery) -> None:
        """Send the text so far to who asks for it, if it is generated here."""
        await self.may_run.wait()
        try:
            job = self._jobs.get(".".join(parse_replay(request.subject)))
        except InvalidName:
            return
        if job is not None and job.output is not None and job.num_prompt_tokens:
            text = job.output.piece(0, job.num_tokens)
            attempt, headers = job.generation.attempt, trace_headers(job.trace)
            await answer_replay(self._bus, request, attempt=attempt, text=text, headers=headers)

    async def _tell(self, job: _Job, counts: Started | Finished) -> None:
        each = job.generation
        kind: Literal["started", "finished"] = "finished" if isinstance(counts, Finished) else "started"
        event = TaskEvent(
            kind=kind,
            task=each.task,
            variable=each.variable,
            at=self.context.clock.now(),
            worker=self._config.worker_id,
            num_prompt_tokens=counts.num_prompt_tokens,
            num_shared_tokens=counts.num_shared_tokens,
            num_prefilled_tokens=counts.num_prefilled_tokens,
            num_output_tokens=counts.num_output_tokens if isinstance(counts, Finished) else 0,
            trace=each.trace,
        )
        await self._bus.publish(event_subject(each.tenant, each.session, kind), encode_json(event))

    # -- results -----------------------------------------------------------------------------------------------------

    async def _finish(self, job: _Job, finished: Finished) -> None:
        assert job.output is not None
        text = job.output.text
        usage = Usage(
            num_prompt_tokens=finished.num_prompt_tokens,
            num_shared_tokens=finished.num_shared_tokens,
            num_prefilled_tokens=finished.num_prefilled_tokens,
            num_output_tokens=finished.num_output_tokens,
            attempt=job.generation.attempt,
            started_at=job.started_at,
            finished_at=self.context.clock.now(),
        )

        async def store() -> None:
            try:
                with use_trace(job.trace):
                    await set_variable(self._bus, job.address, text, producer=self._config.worker_id, usage=usage)
            except VariableAlreadySet:
                return
            await self._tell(job, finished)

        await self._settle(job.generation, store)

    async def _end(self, generation: Generation, error: Exception) -> None:
        """Say why there is no value; what may go better another time is given back."""
        if isinstance(error, ConnectionClosed):
            raise error
        if isinstance(error, ParrotError) and error.retryable:
            await self._give_back([generation], error)
            return
        job, producer = _Job(generation, 0, 0), self._config.worker_id
        with use_trace(job.trace):
            await self._settle(generation, lambda: fail_variable(self._bus, job.address, error, producer=producer))

    async def _settle(self, generation: Generation, store: Callable[[], Awaitable[object]]) -> None:
        """Store a result, and only then forget the generation."""
        while True:
            try:
                await store()
                break
            except ConnectionClosed:
                raise
            except TransportError as error:
                if not error.retryable:
                    await self._give_back([generation], error)
                    return
                await self.context.clock.sleep(_RETRY_S)
        self._forget(generation.key)

    async def _give_back(self, generations: Sequence[Generation], reason: ParrotError) -> None:
        """Hand generations over, with their tokens so far."""
        await self._report()
        keys = [each.key for each in generations if each.key in self._jobs]
        if not keys:
            return
        self.engine.cancel(keys)
        for key in keys:
            self._forget(key)
        returned = GenerationsReturned(
            worker=self._config.worker_id,
            model=self._config.model,
            keys=keys,
            reason=ErrorInfo.from_error(reason),
        )
        await self._registry.tell(returned)

    def _forget(self, key: str) -> None:
        self._jobs.pop(key, None)
        if not self._jobs:
            self._is_idle.set()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._is_idle.wait()
        except TimeoutError:
            reason = GenerationAborted(f"worker {self._config.worker_id!r} is stopped", worker=self._config.worker_id)
            await self._give_back([job.generation for job in self._jobs.values()], reason)
        await self._become("stopped")
        self.context.stop()


class SimulatedWorker:
    """A simulated worker that runs.

    Attributes:
        config: How it runs.
    """

    def __init__(self, config: SimulatedWorkerConfig, lives: Sequence[_WorkerActor], ref: ActorRef) -> None:
        self.config = config
        self._lives = lives
        self._ref = ref

    @property
    def engine(self) -> SimulatedEngine:
        """What it runs on; to be looked at."""
        return self._lives[-1].engine

    @property
    def num_failures(self) -> int:
        """How often it broke and began again."""
        return len(self._lives) - 1

    def pause(self) -> None:
        """Let it stand still, as a process that is stopped does: it says and does nothing, and messages wait."""
        self._lives[-1].may_run.clear()

    def resume(self) -> None:
        """Let it go on."""
        self._lives[-1].may_run.set()

    async def drain(self) -> None:
        """Let it take no more work, finish what it can in time, and give back the rest; returns when it has ended."""
        await self._ref.tell(_Drain())
        await self._ref.wait_stopped()


@asynccontextmanager
async def simulated_worker(
    bus: Bus,
    config: SimulatedWorkerConfig | None = None,
    *,
    answer: Answer | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[SimulatedWorker]:
    """Run a simulated worker until the block ends; it has said that it is there when the block begins.

    Args:
        bus: Its connection.
        config: How it runs.
        answer: What it writes for a prompt; without it, words that follow from prompt and seed.
        clock: Its time; by default that of a running `VirtualTimeLoop`.
    """
    config = config or SimulatedWorkerConfig()
    lives: list[_WorkerActor] = []

    def make() -> _WorkerActor:
        lives.append(_WorkerActor(bus, config, answer))
        return lives[-1]

    async with ActorSystem(config.worker_id, bus=bus, clock=clock or SimulatedClock()) as system:
        ref = await system.spawn(make, name="worker", restart=RestartPolicy.TRANSIENT, accepts=WorkerMessage)
        yield SimulatedWorker(config, lives, ref)


def _segments(hashes: Sequence[str], texts: Sequence[str]) -> tuple[SimulatedSegment, ...]:
    return tuple(SimulatedSegment(each, count_tokens(text)) for each, text in zip(hashes, texts, strict=True))


async def _text(bus: Bus, tenant: str, segment: str | BlobRef) -> str:
    return segment if isinstance(segment, str) else await fetch_text(bus, tenant, segment)
