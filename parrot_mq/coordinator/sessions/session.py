"""One actor for each live session: facts in, ready generations out, errors as values."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from parrot_mq.actors import Actor, ActorRef
from parrot_mq.coordinator.protocol import (
    CameBack,
    EnqueueAgain,
    EnterTasks,
    ExpireTasks,
    GenerationFailed,
    LookAgain,
    LookUp,
    ModelsChanged,
    SessionIdle,
    StartOver,
    TaskArrived,
    VariableStored,
    tell_self,
)
from parrot_mq.coordinator.sessions.executor import GraphExecutor
from parrot_mq.coordinator.sessions.surroundings import Surroundings
from parrot_mq.errors import ActorError, ParrotError
from parrot_mq.messages import SessionCancel, SessionClose, SessionMark, SessionOpen, SessionReply, VariableAddress

__all__ = ["SessionActor"]

LOOK_AGAIN_S = 1.0


class SessionActor(Actor):
    """Turns the facts of one session into ready generations.

    Whatever goes wrong with a task becomes an error on its outputs. Failures spread by the facts themselves: an error
    that is stored comes back as a fact and fails the tasks that read it.

    Delivery: every message may come twice; the second time changes nothing.
    """

    def __init__(self, around: Surroundings, *, coordinator: ActorRef, idle_s: float) -> None:
        self._around = around
        self._key = around.key
        self._facts = around.facts
        self._events = around.events
        self._coordinator = coordinator
        self._idle_s = idle_s
        self._purged_up_to = 0  # facts up to this sequence were removed when the session was closed
        self._will_look_again = False
        self._alarm: asyncio.Task[object] | None = None
        self._alarm_at: float | None = None

    async def on_start(self) -> None:
        """Take up what is unfinished; after a restart of this actor that is what it had taken before."""
        self._executor = self._make_executor()
        self._last_active = self.context.clock.monotonic()
        self.context.every(self._idle_s, SessionIdle(self._key))
        for address, delivery in self._facts.unfinished(self._key):
            self._take(TaskArrived(address, delivery))

    async def receive(self, message: object) -> object:
        if not isinstance(message, SessionIdle):
            self._last_active = self.context.clock.monotonic()
        match message:
            case VariableStored():
                await self._store(message)
            case TaskArrived():
                self._take(message)
            case EnterTasks():
                await self._enter_arrived()
            case LookAgain():
                self._will_look_again = False
                await self._executor.look_again()
            case LookUp(variable=variable):
                await self._executor.look_up(variable)
            case ExpireTasks():
                await self._expire()
            case CameBack(variable=variable):
                self._executor.state.watch(variable)
                await self._expire()
            case ModelsChanged():
                await self._executor.place_homeless()
            case EnqueueAgain(dispatcher=dispatcher):
                await self._executor.enqueue_again(dispatcher)
            case GenerationFailed(variable=variable, error=error):
                await self._executor.give_up(variable, error)
            case SessionIdle():
                self._offer_to_stop()
            case StartOver(error=error):
                raise error
            case _:
                return await self._control(message)
        return None

    def _make_executor(self) -> GraphExecutor:
        return GraphExecutor(
            self._around,
            session=self.context.ref,
            run=lambda work: self.context.run(work, name="local_step"),
        )

    # -- facts -------------------------------------------------------------------------------------------------------

    def _take(self, task: TaskArrived) -> None:
        """Keep a task until all that is in the mailbox is read, so that one look-up serves many."""
        arrived = self._executor.state.arrived
        if not arrived:
            tell_self(self.context, EnterTasks())
        arrived[task.address] = task.delivery

    async def _enter_arrived(self) -> None:
        await self._executor.enter_arrived()
        self._arm_deadline()
        if self._executor.is_unsure and not self._will_look_again:
            self._will_look_again = True
            self.context.after(LOOK_AGAIN_S, LookAgain())

    async def _store(self, stored: VariableStored) -> None:
        if stored.sequence > self._purged_up_to:
            address = VariableAddress(*self._key, stored.variable)
            self._events.stored(address, stored.value, producer=stored.producer, usage=stored.usage)
            await self._executor.store(stored.variable, stored.value, stored.producer, stored.usage)

    # -- deadlines ---------------------------------------------------------------------------------------------------

    def _arm_deadline(self) -> None:
        """Be told when the next deadline passes."""
        next_at = self._executor.state.next_deadline
        if next_at == self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = None, next_at
        if next_at is not None:
            self._alarm = self.context.after(max(next_at - self.context.clock.now(), 0.0), ExpireTasks())

    async def _expire(self) -> None:
        self._alarm_at = None
        await self._executor.expire(self.context.clock.now())
        self._arm_deadline()

    # -- control -----------------------------------------------------------------------------------------------------

    async def _control(self, message: object) -> SessionReply | None:
        """Carry a request out. Whoever asked gets the error; what it left half done is found again in the facts."""
        try:
            return await self._carry_out(message)
        except ParrotError as error:
            tell_self(self.context, StartOver(error))
            raise

    async def _carry_out(self, message: object) -> SessionReply | None:
        match message:
            case SessionOpen():
                await self._executor.open()
                return SessionReply()
            case SessionMark():
                return await self._mark(message)
            case SessionCancel(variables=variables):
                return await self._cancel(variables)
            case SessionClose():
                return await self._close()
        return None

    async def _mark(self, mark: SessionMark) -> SessionReply:
        if not mark.only_unmarked:  # what tasks say that were stored before the mark was sent, it replaces
            await self._enter_arrived()
        await self._executor.mark(mark)
        self._arm_deadline()
        return SessionReply()

    async def _cancel(self, variables: list[str]) -> SessionReply:
        await self._enter_arrived()
        return SessionReply(num_cancelled=await self._executor.cancel(variables))

    async def _close(self) -> SessionReply:
        reply = await self._cancel([])
        await self._executor.withdraw_all()
        # What was set so far is still to come as facts, but by then it is gone.
        self._purged_up_to = await self._facts.forget(self._key)
        self._events.closed(*self._key)
        self._executor = self._make_executor()
        self._arm_deadline()
        return reply

    # -- idleness ----------------------------------------------------------------------------------------------------

    def _offer_to_stop(self) -> None:
        """Ask to be dropped from memory after a time without work; asked again until it is done."""
        state = self._executor.state
        quiet_s = self.context.clock.monotonic() - self._last_active
        if not state.tasks and not state.arrived and quiet_s >= self._idle_s:
            with suppress(ActorError):  # no room, or it is stopping
                self._coordinator.tell_nowait(SessionIdle(self._key))
