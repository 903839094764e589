"""One life of an actor: an instance from its start to its stop or failure. A restart begins another life."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import TYPE_CHECKING, Any

from structlog.contextvars import bind_contextvars, clear_contextvars

from parrot_mq.actors.actor import Actor, ActorContext
from parrot_mq.actors.child import ChildSpec
from parrot_mq.actors.ref import ActorRef, Ask
from parrot_mq.actors.supervision import Supervision
from parrot_mq.errors import ActorFailed, ActorStopped, ParrotError
from parrot_mq.observability.logging import get_logger, is_debug
from parrot_mq.tasks import task_group

if TYPE_CHECKING:
    from parrot_mq.actors.cell import Cell
    from parrot_mq.actors.children import Children

__all__ = ["Life", "Phase"]

MESSAGES_PER_TURN = 32
"""Messages handled before the event loop gets a turn, so that an actor that is never idle starves nobody."""

MAX_CAUSE_CHARS = 2000

log = get_logger(__name__)
Receive = Callable[[Any], Awaitable[object]]


class Phase(Enum):
    """Where in its life an actor is."""

    CREATED = "created"
    """Its task has not run yet; a stop keeps it from starting."""

    STARTING = "starting"
    """`on_start` has not returned; a stop cancels it."""

    RECEIVING = "receiving"
    """It handles messages; a stop lets it finish the current one."""

    ENDING = "ending"
    """Its tasks, its children and itself are being stopped."""


class Life:
    """One life of an actor. `live` is run once, in a task that `Cell` starts and awaits."""

    def __init__(self, cell: Cell) -> None:
        self.phase = Phase.CREATED
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cell = cell
        self._is_stopping = False
        self._is_started = False
        self._current: Ask | None = None
        self._failure: BaseException | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they were started
        self._children: Children | None = None
        self._supervision = Supervision()
        self.is_cancelled = False  # set by `Cell`, which cancels a life at most once
        self._log = log.bind(actor=cell.address)

    async def live(self) -> None:
        """Start, receive, stop.

        Raises:
            Exception: What the actor failed with.
        """
        if self._is_stopping:
            self.phase = Phase.ENDING
            return
        self.phase = Phase.STARTING
        clear_contextvars()  # those of whoever spawned it
        bind_contextvars(actor=self._cell.address)
        actor = self._cell.spec.factory()
        actor.context = self._make_context(type(actor))
        try:
            async with task_group() as self._group:
                try:
                    await self._start(actor)
                    await self._receive_all(actor)
                finally:
                    # Also after a failure: before 3.11.6 an aborting group waits for tasks begun since.
                    self.phase = Phase.ENDING
                    self._cancel_tasks()
        except Exception as error:
            self.settle(error)  # the asker need not wait for what follows
            raise
        finally:
            await self._end(actor)

    def request_stop(self) -> None:
        """Let the current message be the last one."""
        self._is_stopping = True
        self._cell.mailbox.interrupt()

    def settle(self, failure: BaseException | None) -> None:
        """Take note why this life ended; an ask that was being handled is answered with that."""
        self._failure = failure
        if self._current is not None:
            address = self._cell.address
            self._current.fail(
                ActorStopped(address=address)
                if failure is None
                else ActorFailed(address=address, cause=_describe(failure))
            )

    def refuse_start(self) -> None:
        """Let the starter know that this life has ended, if it did before it was ready."""
        if not self.ready.done():
            self.ready.set_exception(self._failure or ActorStopped(address=self._cell.address))
            self.ready.exception()  # marks it as seen: the starter may have been cancelled

    async def spawn(self, spec: ChildSpec) -> ActorRef:
        """Start a child of this actor."""
        if self.phase is Phase.ENDING:
            raise ActorStopped(address=self._cell.address)
        if self._children is None:
            self._children = self._cell.runtime.children_of(self._cell.address, self._supervision)
            self.run(self._children.supervise(), name="supervisor")
        return await self._children.spawn(spec)

    def run(self, work: Coroutine[Any, Any, object], *, name: str) -> asyncio.Task[object]:
        """Run a task that ends with this life."""
        try:
            if self._group is None or self.phase is Phase.ENDING:
                raise RuntimeError("ending")
            task = self._group.create_task(work, name=f"{self._cell.address}:{name}")
        except RuntimeError as error:  # also from a group that is being aborted
            work.close()
            raise ActorStopped(address=self._cell.address) from error
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    # -- the phases --------------------------------------------------------------------------------------------------

    async def _start(self, actor: Actor) -> None:
        self._supervision = actor.supervision
        await actor.on_start()
        self._is_started = True
        self.phase = Phase.RECEIVING
        self._cell.mark_ready()
        if not self.ready.done():
            self.ready.set_result(None)

    def _make_context(self, actor: type[Actor]) -> ActorContext:
        runtime = self._cell.runtime
        own_log = get_logger(actor.__module__).bind(actor=self._cell.address)
        return ActorContext(
            self, ref=ActorRef(runtime, self._cell), system=runtime.system, clock=runtime.clock, log=own_log
        )

    async def _receive_all(self, actor: Actor) -> None:
        receive = self._logged(actor.receive) if is_debug() else actor.receive
        try:
            await self._receive_until_stop(receive)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled this actor: `receive` awaited something that was. As a cancellation it would end the
            # actor without a failure and without a restart.
            raise RuntimeError("receive() raised CancelledError, but the actor was not cancelled") from error

    async def _receive_until_stop(self, receive: Receive) -> None:
        """The hot loop: no work per message but the message's."""
        cell, mailbox = self._cell, self._cell.mailbox
        num_left = MESSAGES_PER_TURN
        while not self._is_stopping:
            if not mailbox:
                await mailbox.wait_not_empty()
                num_left = MESSAGES_PER_TURN
                continue
            message = mailbox.get_nowait()
            cell.num_handled += 1
            if type(message) is Ask:
                await self._answer(receive, message)
            else:
                await receive(message)
            num_left -= 1
            if not num_left:
                await asyncio.sleep(0)
                num_left = MESSAGES_PER_TURN

    async def _answer(self, receive: Receive, ask: Ask) -> None:
        if ask.future.done():  # the asker has given up; nobody would learn what came of it
            return
        self._current = ask
        try:
            ask.answer(await receive(ask.message))
        except ParrotError as error:
            ask.fail(error)
        self._current = None  # else `settle` answers it

    async def _end(self, actor: Actor) -> None:
        if self._children is not None:
            await self._children.stop()
        if not self._is_started:
            return
        try:
            async with asyncio.timeout(self._cell.spec.stop_timeout_s):
                await actor.on_stop()
        except Exception:
            self._log.exception("actor_stop_failed")

    def _cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _logged(self, receive: Receive) -> Receive:
        """Wrap `receive` so that each message is logged; only while debug logs are wanted."""

        async def logged(message: Any) -> object:
            started = asyncio.get_running_loop().time()
            outcome = "failed"
            try:
                answer = await receive(message)
                outcome = "handled"
                return answer
            finally:
                duration_ms = 1000 * (asyncio.get_running_loop().time() - started)
                self._log.debug(
                    "message_received", message=type(message).__name__, outcome=outcome, duration_ms=duration_ms
                )

        return logged


def _describe(error: BaseException) -> str:
    """What an asker is told of a failure; short, for it has to fit into one message."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= MAX_CAUSE_CHARS else f"{text[:MAX_CAUSE_CHARS]}…"
