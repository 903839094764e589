"""What stays of an actor across its restarts: name, mailbox, place among its siblings."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any

from parrot_mq.actors.child import ChildSpec
from parrot_mq.actors.life import Life, Phase
from parrot_mq.actors.mailbox import Mailbox
from parrot_mq.actors.ref import Ask
from parrot_mq.actors.remote import Endpoint
from parrot_mq.actors.statistics import ActorState, ActorStatistics
from parrot_mq.errors import ActorStopped
from parrot_mq.observability.logging import get_logger

if TYPE_CHECKING:
    from parrot_mq.actors.children import Children
    from parrot_mq.actors.runtime import Runtime

__all__ = ["Cell"]

log = get_logger(__name__)


class Wanted(Enum):
    """What is to become of an actor when its current life has ended."""

    POLICY = "policy"
    """What its restart policy says."""

    RESTART = "restart"
    """Its supervisor restarts it together with a sibling."""

    STOP = "stop"
    """It stays stopped."""


class Cell:
    """What stays of an actor across its restarts. Its siblings' `Children` own it."""

    def __init__(self, runtime: Runtime, siblings: Children, spec: ChildSpec) -> None:
        self.runtime = runtime
        self.spec = spec
        self.address = f"{runtime.node}/{spec.name}"
        self.mailbox: Mailbox[Any] = Mailbox(spec.mailbox_capacity, address=self.address)
        self.state = ActorState.STARTING
        self.num_handled = 0
        self.num_restarts = 0
        self._siblings = siblings
        self._wanted = Wanted.POLICY
        self.is_new = True  # until `on_start` has finished once
        self._life: Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._endpoint: Endpoint | None = None
        self._stopped = asyncio.Event()

    @property
    def awaits_restart(self) -> bool:
        """Whether it has ended and is to be started again."""
        return self.state is ActorState.RESTARTING

    @property
    def is_suspended(self) -> bool:
        """Whether its supervisor has ended it together with a sibling, and has not started it again."""
        return self.awaits_restart and self._wanted is Wanted.RESTART

    def is_current_task(self) -> bool:
        """Whether the caller is this actor, handling a message (or starting, or stopping)."""
        return self._task is not None and asyncio.current_task() is self._task

    def statistics(self) -> ActorStatistics:
        """How the actor stands now."""
        return ActorStatistics(
            address=self.address,
            state=self.state,
            num_handled=self.num_handled,
            num_restarts=self.num_restarts,
            mailbox=self.mailbox.statistics(),
        )

    # -- lives -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin the first life, and make the actor reachable; returns when it is ready.

        Raises:
            Exception: What `on_start` raised; the actor has stopped.
            ActorStopped: It was stopped before it was ready.
        """
        await self._begin_life()
        if self.spec.accepts is not None and self.runtime.bus is not None:
            self._endpoint = Endpoint(self.runtime, self.runtime.bus, self)
            await self._endpoint.open()

    async def restart(self) -> bool:
        """Begin another life; returns False if it failed to start, which has been reported like any failure."""
        self.num_restarts += 1
        self._wanted = Wanted.POLICY
        try:
            await self._begin_life()
        except Exception:
            return not self.awaits_restart  # stopped meanwhile is no failure
        log.info("actor_restarted", actor=self.address, num_restarts=self.num_restarts)
        return True

    def mark_ready(self) -> None:
        """Take note that `on_start` has finished."""
        self.is_new = False
        self.state = ActorState.RUNNING

    async def suspend(self) -> None:
        """End the current life, keeping the mailbox; `restart` follows."""
        if self.state is not ActorState.STOPPED:
            self._wanted = Wanted.RESTART
            await self._end_life()

    async def stop(self) -> None:
        """End the current life for good. May be called twice."""
        if self.state is ActorState.STOPPED:
            return
        self._wanted = Wanted.STOP
        self._reject(self.mailbox.close())
        if self._life is not None and self.is_current_task():
            self._life.request_stop()  # it cannot wait for itself
            return
        await self._end_life()
        await self._finish()

    async def wait_stopped(self) -> None:
        """Wait until it has stopped for good."""
        await self._stopped.wait()

    async def _begin_life(self) -> None:
        self.state = ActorState.STARTING
        life = self._life = Life(self)
        self._task = self.runtime.create_task(self._run(life), name=self.address)
        await life.ready

    async def _run(self, life: Life) -> None:
        """Live, and then do what is wanted; the actor's failure ends here."""
        failure: BaseException | None = None
        try:
            await life.live()
        except asyncio.CancelledError:
            if self._wanted is Wanted.POLICY:  # the whole system is being torn down
                self._wanted = Wanted.STOP
            raise
        except Exception as error:
            failure = error
        finally:
            life.settle(failure)
            await self._conclude(failure)
            life.refuse_start()

    async def _conclude(self, failure: BaseException | None) -> None:
        """Wait for a restart, or stop for good."""
        if self._wanted is Wanted.RESTART:
            self.state = ActorState.RESTARTING
        elif self._wanted is Wanted.POLICY and not self.is_new and self._is_restarted_after(failure):
            self.state = ActorState.RESTARTING
            self._siblings.report_ended(self, failure)
        else:
            if failure is not None and not self.is_new:  # else the starter gets it
                log.error("actor_failed", actor=self.address, cause=repr(failure), exc_info=failure)
            await self._finish()

    def _is_restarted_after(self, failure: BaseException | None) -> bool:
        return self.spec.restart.restarts(is_failure=failure is not None)

    async def _end_life(self) -> None:
        """Let the current message be finished, or cancel what takes too long; returns when the life has ended."""
        task, life = self._task, self._life
        if task is None or life is None or task.done():
            return
        if life.phase is not Phase.STARTING:
            # Also a life whose task has not run: cancelling that task would skip what `_run` does at its end.
            life.request_stop()
            await asyncio.wait({task}, timeout=self.spec.stop_timeout_s)
        if life.phase is not Phase.ENDING and not life.is_cancelled:
            if life.phase is Phase.RECEIVING:
                log.warning("actor_stop_timed_out", actor=self.address, stop_timeout_s=self.spec.stop_timeout_s)
            life.is_cancelled = True  # a second cancellation would interrupt the clean-up that the first one began
            task.cancel()
        await asyncio.wait({task})

    async def _finish(self) -> None:
        """Stop for good: nobody reaches the actor any more, and its name is free."""
        self._reject(self.mailbox.close())
        try:
            if self._endpoint is not None:
                await self._endpoint.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave nobody waiting for an actor that has ended for good."""
        self._reject(self.mailbox.close())
        if self._life is not None:
            self._life.refuse_start()
        self.state = ActorState.STOPPED
        self._siblings.forget(self)
        self.runtime.forget(self)
        self._stopped.set()

    def _reject(self, messages: list[Any]) -> None:
        """Answer the asks that nobody will handle, and log how many tells are lost."""
        num_dropped = 0
        for message in messages:
            if isinstance(message, Ask):
                message.fail(ActorStopped(address=self.address))
            else:
                num_dropped += 1
        if num_dropped:
            log.info("messages_dropped", actor=self.address, num_dropped=num_dropped)
