"""The actor that calls native functions: it asks whoever serves them, and stores what they answer."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass

from parrot_mq.actors import Actor, ActorRef
from parrot_mq.bus import Bus
from parrot_mq.coordinator.calls.attempts import Attempts, GiveUp, Setback, SetbackKind
from parrot_mq.coordinator.calls.counts import CallCounts, CallResult
from parrot_mq.coordinator.calls.events import CallEvents
from parrot_mq.coordinator.calls.queue import CallQueue
from parrot_mq.coordinator.calls.run import CallRun
from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.protocol import Call, CameBack, Done, Expire, GenerationFailed
from parrot_mq.coordinator.sessions.ready import ReadyCall
from parrot_mq.coordinator.stories.events import Events
from parrot_mq.errors import ActorStopped, ConnectionClosed, DeadlineExceeded, FunctionNotServed, ParrotError

__all__ = ["CallerActor"]

LATE_S = 1.0
"""A call whose time is over is given up here if its session has not done so by then."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A call that is not finished.

    Attributes:
        call: What is called.
        session: Whom to tell if it is given up.
        arrived_at: When it came, monotonic seconds.
        run: Makes its attempts, once it was started.
        task: Runs it.
        is_overdue: It was at a host when it was to expire.
    """

    call: ReadyCall
    session: ActorRef
    arrived_at: float
    run: CallRun | None = None
    task: asyncio.Task[object] | None = None
    is_overdue: bool = False


class CallerActor(Actor):
    """Makes the calls of all sessions. What follows from a failure, and whose turn it is, is decided elsewhere.

    An answer is stored as a fact, so sessions hear of it as of every fact. Each call that was started has a task of its
    own: the actor itself never waits, neither for a host nor for a session.

    Delivery: a function may be called more than once, by this actor after a failure or by the next coordinator; its
    result is stored once.
    """

    def __init__(
        self, bus: Bus, *, config: CoordinatorConfig, events: Events, counts: CallCounts, rng: random.Random
    ) -> None:
        self._bus = bus
        self._config = config
        self._events = events
        self._counts = counts
        self._rng = rng
        self._entries: dict[str, _Entry] = {}
        self._queue = CallQueue(config.max_calls_per_tenant)

    async def on_start(self) -> None:
        """Begin with nothing: the sessions hand over what they have."""
        self._counts.begin()
        self._stop_listening = self._bus.add_reconnect_listener(self._on_reconnect)

    async def on_stop(self) -> None:
        """Stop the hosts: whoever calls next calls anew."""
        self._stop_listening()
        for entry in self._entries.values():
            if entry.run is not None:
                await entry.run.stop_host()

    async def receive(self, message: object) -> None:
        match message:
            case Call(call=call, session=session):
                self._take(call, session)
            case Done(keys=keys):
                for key in keys:
                    self._forget(key)
            case Expire():
                self._expire(message)

    @property
    def _now(self) -> float:
        return self.context.clock.monotonic()

    # -- what sessions say -------------------------------------------------------------------------------------------

    def _take(self, call: ReadyCall, session: ActorRef) -> None:
        """A call came. One that is here already is handed over again by a session that was restarted."""
        if (known := self._entries.get(call.key)) is not None:
            known.session = session
            return
        self._entries[call.key] = _Entry(call, session, self._now)
        self._queue.add(call)
        self._counts.came(call.function)
        self._start(call.address.tenant)

    def _start(self, tenant: str) -> None:
        """Start what may be started of a tenant."""
        for call in self._queue.start(tenant):
            self._counts.started(call.function)
            entry, events = self._entries[call.key], CallEvents(call, self._events, self._counts)
            entry.run = CallRun(call, self._bus, self.context.clock, events)
            entry.task = self.context.run(self._run(entry, entry.run), name=f"call:{call.key}")

    def _forget(self, key: str) -> None:
        """A call is not wanted any more: its variable is set, or its task was given up."""
        entry = self._entries.get(key)
        if entry is None:
            return
        if entry.run is None or entry.task is None:
            del self._entries[key]
            self._queue.withdraw(entry.call)
            self._counts.withdrawn(entry.call.function)
            return
        entry.task.cancel()
        if entry.run.is_out:
            self.context.run(entry.run.stop_host(), name="stop_host")
        self._end(entry, "returned" if entry.run.has_answer else "cancelled")

    def _expire(self, expire: Expire) -> None:
        """What is at no host is of no use any more; its session says so on its output, and then it is forgotten."""
        entry = self._entries.get(expire.key)
        if entry is None:
            return
        if entry.run is not None and entry.run.is_out:
            entry.is_overdue = True
        else:
            self.context.run(_tell(entry.session, expire.failure), name="expire")  # a session may wait for room here

    # -- one call ----------------------------------------------------------------------------------------------------

    async def _run(self, entry: _Entry, run: CallRun) -> None:
        """Attempt a call until it has an answer or is given up."""
        with suppress(ConnectionClosed):  # the coordinator ends
            error = await self._attempt_all(entry, run)
            if error is None:
                self._end(entry, "returned")
                return
            await _tell(entry.session, GenerationFailed(entry.call.address.variable, error))
            self._end(entry, "not_served" if isinstance(error, FunctionNotServed) else "failed")

    async def _attempt_all(self, entry: _Entry, run: CallRun) -> ParrotError | None:
        """Attempt a call; returns why it is given up, or None if it has an answer."""
        call = entry.call
        attempts = Attempts(
            tenant=call.address.tenant,
            function=call.function,
            max_attempts=call.max_attempts,
            grace_s=self._config.function_grace_s,
            rng=self._rng,
        )
        clock = self.context.clock
        while clock.now() < call.deadline:
            setback = await run.attempt(attempts.number)
            unserved_s = self._unserved_s(entry, setback)
            if setback is None:
                return None
            if entry.is_overdue:
                entry.is_overdue = False
                await _tell(entry.session, CameBack(call.address.variable))
            if (left_s := call.deadline - clock.now()) <= 0:
                break
            decision = attempts.decide(setback, unserved_s=unserved_s)
            if isinstance(decision, GiveUp):
                return decision.error
            await self._wait(entry, setback, min(decision.delay_s, left_s))
        await clock.sleep(LATE_S)
        return DeadlineExceeded(what=f"the call of {call.function!r}", timeout_s=round(self._now - entry.arrived_at, 1))

    async def _wait(self, entry: _Entry, setback: Setback, delay_s: float) -> None:
        """Wait before the next attempt; for room not longer than until a call of the function ends."""
        if setback.kind is not SetbackKind.BUSY:
            await self.context.clock.sleep(delay_s)
            return
        room, lane = asyncio.Event(), self._queue.lane(entry.call)
        lane.refused[entry.call.key] = room.set
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await room.wait()
        finally:
            lane.refused.pop(entry.call.key, None)

    def _end(self, entry: _Entry, result: CallResult) -> None:
        """A call that was started is over, and another one may be started."""
        call = entry.call
        del self._entries[call.key]
        lane = self._queue.lane(call)
        lane.refused.pop(call.key, None)
        lane.wake_refused()
        self._queue.end(call)
        self._counts.ended(call.function, result)
        self._start(call.address.tenant)

    # -- who is there ------------------------------------------------------------------------------------------------

    def _unserved_s(self, entry: _Entry, setback: Setback | None) -> float:
        """For how long nobody has listened while the call was there."""
        lane, now = self._queue.lane(entry.call), self._now
        if setback is None or setback.kind is not SetbackKind.NOT_SERVED:
            lane.unserved_since = None
            return 0.0
        if lane.unserved_since is None:
            lane.unserved_since = now
        return now - max(lane.unserved_since, entry.arrived_at)

    def _on_reconnect(self) -> None:
        """Those who serve functions have to come back first."""
        for lane in self._queue.lanes():
            lane.unserved_since = None


async def _tell(session: ActorRef, message: object) -> None:
    with suppress(ActorStopped):
        await session.tell(message)
