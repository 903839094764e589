"""The coordinator of a process: reads facts and control requests, and gives each session its actor."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from parrot_mq.actors import Actor, ActorRef, ActorSystem, Supervision, SystemStatistics
from parrot_mq.bus import Bus, Delivery
from parrot_mq.clock import Clock, SystemClock
from parrot_mq.coordinator.calls.caller import CallerActor
from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.dispatch.dispatcher import DispatcherActor
from parrot_mq.coordinator.facts import Facts
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import (
    CallerRestarted,
    DispatcherRestarted,
    EnqueueAgain,
    SessionIdle,
    SessionKey,
    SettleModels,
    TaskArrived,
    VariableStored,
    tell_self,
)
from parrot_mq.coordinator.registry import RegistryActor
from parrot_mq.coordinator.sessions.session import SessionActor
from parrot_mq.coordinator.sessions.surroundings import Surroundings
from parrot_mq.coordinator.statistics import Board, CoordinatorStatistics
from parrot_mq.coordinator.stories.events import Events
from parrot_mq.coordinator.tenants import Quotas
from parrot_mq.errors import ActorStopped, MalformedMessage, ParrotError
from parrot_mq.messages import (
    ALL_CONTROL,
    COORDINATOR_STARTED,
    AutoscalerStatus,
    CoordinatorStarted,
    GenerationsReturned,
    Message,
    ServiceQuery,
    SessionCancel,
    SessionClose,
    SessionExplain,
    SessionMark,
    SessionOpen,
    SessionReply,
    SessionStory,
    WorkerStatus,
    decode,
    encode,
    encode_error,
    encode_json,
    is_inbox,
    parse_control,
)
from parrot_mq.observability import get_logger
from parrot_mq.types import fresh_id

__all__ = ["Coordinator", "open_coordinator"]

CONTROL: dict[str, type[Message]] = {
    "open": SessionOpen,
    "mark": SessionMark,
    "explain": SessionExplain,
    "cancel": SessionCancel,
    "close": SessionClose,
}
REGISTRY_ACCEPTS = WorkerStatus | GenerationsReturned | AutoscalerStatus | ServiceQuery
CONTROL_TIMEOUT_S = 30.0
SESSION_MAILBOX = 8192

_NO_HEADERS: dict[str, str] = {}

log = get_logger(__name__)


class CoordinatorActor(Actor):
    """Routes facts to sessions, and starts and stops the actors of the process.

    An actor that fails is started again and takes up its work from the facts, or from who has it. One that fails again
    and again is tried ever more seldom, and does not take the others with it.
    """

    supervision = Supervision(intensity=10_000, period_s=60.0)

    def __init__(self, bus: Bus, facts: Facts, config: CoordinatorConfig, clock: Clock, board: Board) -> None:
        self._bus = bus
        self._facts = facts
        self._config = config
        self._clock = clock
        self._events = Events(bus, clock, board.history)
        self._models = Models()
        self._quotas = Quotas(config.tenants)
        self._leases = board.leases
        self._board = board
        self._sessions: dict[SessionKey, ActorRef] = {}
        self._caller: ActorRef | None = None
        self._starting = asyncio.Lock()
        self._counter = itertools.count(1)

    async def on_start(self) -> None:
        """Be ready for workers first, then read the facts, then answer requests."""
        config = self._config
        self.context.run(self._events.run(), name="events")
        await self.context.spawn(self._make_registry, name="registry", accepts=REGISTRY_ACCEPTS)
        self._caller = await self.context.spawn(self._make_caller, name="caller", mailbox_capacity=SESSION_MAILBOX)
        await self._bus.publish(COORDINATOR_STARTED, encode(CoordinatorStarted(node=config.node)))
        self.context.after(config.model_grace_s, SettleModels())
        await self._facts.start(self._on_task, self._on_variable)
        try:
            self._control = await self._bus.subscribe(ALL_CONTROL, self._on_control)
        except BaseException:
            await self._facts.stop()
            raise
        self.context.run(self._facts.watch(), name="watch")

    async def on_stop(self) -> None:
        await self._control.aclose()
        await self._facts.stop()
        self._events.traces.end_all()

    async def receive(self, message: object) -> None:
        match message:
            case SettleModels():
                await self._models.settle()
            case SessionIdle(key=key):
                await self._drop(key)
            case DispatcherRestarted(model=model):
                await self._enqueue_again(self._models.dispatcher(model))
            case CallerRestarted() if self._caller is not None:
                await self._enqueue_again(self._caller)

    # -- facts -------------------------------------------------------------------------------------------------------

    async def _on_task(self, key: SessionKey, task: TaskArrived) -> None:
        with suppress(ActorStopped):  # the task stays in the stream
            await (await self._session(key)).tell(task)

    async def _on_variable(self, key: SessionKey, stored: VariableStored) -> None:
        """Tell a live session; nobody else needs it now, and who needs it later looks it up."""
        if self._starting.locked():
            async with self._starting:  # it may be this one that starts
                pass
        session = self._sessions.get(key)
        if session is not None:
            with suppress(ActorStopped):
                await session.tell(stored)

    # -- control -----------------------------------------------------------------------------------------------------

    async def _on_control(self, delivery: Delivery) -> None:
        with suppress(ActorStopped):
            self.context.run(self._answer(delivery), name="control")

    async def _answer(self, delivery: Delivery) -> None:
        try:
            reply, headers = encode_json(await self._control_session(delivery)), _NO_HEADERS
        except ParrotError as error:
            reply, headers = encode_error(error)
        if is_inbox(delivery.reply):
            try:
                await self._bus.publish(delivery.reply, reply, headers=headers)
            except ParrotError as error:
                log.warning("answer_lost", subject=delivery.subject, error=error.message)

    async def _control_session(self, delivery: Delivery) -> Message:
        tenant, name, verb = parse_control(delivery.subject)
        if verb not in CONTROL:
            raise MalformedMessage(message_type="control", path="subject", expected=f"One of {', '.join(CONTROL)}")
        request: Message = decode(delivery.payload or b"{}", CONTROL[verb], delivery.headers)
        key = SessionKey(tenant, name)
        is_hint = isinstance(request, SessionMark) and request.only_unmarked
        if not isinstance(request, SessionOpen) and (delivery.reply or not is_hint):
            await self._facts.catch_up(key)
        if isinstance(request, SessionMark) and is_hint:
            return await self._mark(key, request)
        if isinstance(request, SessionExplain):
            return self._explain(request, tenant, name)
        while True:
            session = await self._session(key)
            try:
                answer: Message = await session.ask(request, timeout_s=CONTROL_TIMEOUT_S)
                return answer
            except ActorStopped:
                if self._sessions.get(key) == session:
                    raise  # else it was just dropped as idle

    async def _mark(self, key: SessionKey, mark: SessionMark) -> SessionReply:
        """Somebody waits for variables. That comes often and is a hint: nothing is looked up, and no session begins."""
        if (session := self._sessions.get(key)) is not None:
            await session.tell(mark)
        return SessionReply()

    def _explain(self, request: SessionExplain, tenant: str, session: str) -> SessionStory:
        node, now = self._config.node, self._clock.now()
        return self._board.history.story(tenant, session, begin=request.begin, node=node, at=now)

    # -- actors ------------------------------------------------------------------------------------------------------

    async def _session(self, key: SessionKey) -> ActorRef:
        session = self._sessions.get(key)
        if session is not None:
            return session
        async with self._starting:
            if key not in self._sessions:
                name = f"session-{next(self._counter)}"
                self._sessions[key] = await self.context.spawn(
                    lambda: self._make_session(key), name=name, mailbox_capacity=SESSION_MAILBOX
                )
            return self._sessions[key]

    async def _drop(self, key: SessionKey) -> None:
        """Stop a session's actor, unless work came for it meanwhile."""
        async with self._starting:
            if key in self._sessions and not self._facts.unfinished(key):
                await self._sessions.pop(key).stop()

    async def _enqueue_again(self, dispatcher: ActorRef) -> None:
        """Let the sessions give a dispatcher, or the caller, that was restarted what it had."""
        for session in list(self._sessions.values()):
            with suppress(ActorStopped):
                await session.tell(EnqueueAgain(dispatcher))

    def _make_session(self, key: SessionKey) -> SessionActor:
        assert self._caller is not None, "it is there before the first fact is read"
        around = Surroundings(
            key=key,
            facts=self._facts,
            models=self._models,
            caller=self._caller,
            events=self._events,
            quotas=self._quotas,
            salt=self._config.tenants.salt(key.tenant),
        )
        return SessionActor(around, coordinator=self.context.ref, idle_s=self._config.session_idle_s)

    def _make_registry(self) -> RegistryActor:
        return RegistryActor(
            models=self._models,
            spawn_dispatcher=self._spawn_dispatcher,
            declared=self._config.models,
            lease_s=self._config.lease_s,
            leases=self._leases,
            count_unfinished=lambda: self._facts.num_unfinished,
            process=self._config.process,
            demands=self._board.demands,
            calls=self._board.calls,
        )

    async def _spawn_dispatcher(self, model: str) -> ActorRef:
        name = f"dispatcher-{next(self._counter)}"
        return await self.context.spawn(
            lambda: self._make_dispatcher(model), name=name, mailbox_capacity=SESSION_MAILBOX
        )

    def _make_dispatcher(self, model: str) -> DispatcherActor:
        if model in self._models.names:  # it was there before
            tell_self(self.context, DispatcherRestarted(model))
        dispatcher = DispatcherActor(model, config=self._config, events=self._events)
        self._board.dispatchers[model] = dispatcher.statistics
        self._board.demands[model] = dispatcher.demand
        return dispatcher

    def _make_caller(self) -> CallerActor:
        if self._caller is not None:  # it was there before
            tell_self(self.context, CallerRestarted())
        rng = random.Random(fresh_id("caller"))  # a simulation decides what is fresh
        return CallerActor(self._bus, config=self._config, events=self._events, counts=self._board.calls, rng=rng)


class Coordinator:
    """A coordinator that runs."""

    def __init__(self, facts: Facts, board: Board, system: ActorSystem) -> None:
        self._facts = facts
        self._board = board
        self._system = system

    async def wait_closed(self) -> None:
        """Wait until it can no longer run.

        Raises:
            ConsumerTakenOver: Another coordinator has taken over.
            TransportError: Why else.
        """
        await self._facts.wait_closed()

    def statistics(self) -> CoordinatorStatistics:
        """What it has to do and has done."""
        return self._board.statistics(num_unfinished=self._facts.num_unfinished)

    def actors(self) -> SystemStatistics:
        """How its actors stand."""
        return self._system.statistics()


@asynccontextmanager
async def open_coordinator(
    bus: Bus, config: CoordinatorConfig | None = None, clock: Clock | None = None
) -> AsyncIterator[Coordinator]:
    """Run a coordinator until the block ends; it is ready when the block begins.

    Raises:
        JetStreamUnavailable, ServerTooOld, StreamMismatch: The server cannot keep the facts.
    """
    config = config or CoordinatorConfig()
    clock = clock or SystemClock()
    await bus.ensure_streams()
    facts, board = Facts(bus), Board()
    async with ActorSystem(config.node, bus=bus, clock=clock) as system:
        await system.spawn(lambda: CoordinatorActor(bus, facts, config, clock, board), name="coordinator")
        log.info("coordinator_started", node=config.node, unfinished_tasks=facts.num_unfinished)
        try:
            yield Coordinator(facts, board, system)
        finally:
            facts.close()
