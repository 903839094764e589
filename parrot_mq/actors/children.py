"""The children of one parent: started in order, restarted by the parent's strategy, stopped in reverse order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from parrot_mq.actors.cell import Cell
from parrot_mq.actors.child import ChildSpec
from parrot_mq.actors.ref import ActorRef
from parrot_mq.actors.supervision import RestartHistory, RestartPolicy, Strategy, Supervision, affected_children
from parrot_mq.errors import RestartIntensityExceeded
from parrot_mq.observability.logging import get_logger
from parrot_mq.tasks import task_group

if TYPE_CHECKING:
    from parrot_mq.actors.runtime import Runtime

__all__ = ["Children"]

log = get_logger(__name__)


class Children:
    """The children of one parent. `supervise` runs as a task of the parent; its failure is the parent's."""

    def __init__(self, runtime: Runtime, parent: str, supervision: Supervision) -> None:
        self._runtime = runtime
        self._parent = parent
        self._supervision = supervision
        self._history = RestartHistory(supervision)
        self._cells: list[Cell] = []  # in the order of start
        # Bounded by the number of children: a child that has ended does not end again before it is taken from here.
        self._ended: asyncio.Queue[tuple[Cell, BaseException | None]] = asyncio.Queue()

    async def spawn(self, spec: ChildSpec) -> ActorRef:
        """Start a child; returns when it is ready.

        Cancel: the child is stopped.
        """
        cell = Cell(self._runtime, self, spec)
        self._runtime.register(cell)
        self._cells.append(cell)
        try:
            await cell.start()
        except BaseException:
            await cell.stop()
            raise
        return ActorRef(self._runtime, cell)

    def report_ended(self, cell: Cell, failure: BaseException | None) -> None:
        """Take note that a child has ended and is to be started again."""
        self._ended.put_nowait((cell, failure))

    def forget(self, cell: Cell) -> None:
        """Take note that a child has stopped for good."""
        if cell in self._cells:
            self._cells.remove(cell)

    async def supervise(self) -> None:
        """Restart children until cancelled.

        Raises:
            RestartIntensityExceeded: Children ended too often in too short a time.
        """
        async with task_group() as restarts:
            while True:
                cell, failure = await self._ended.get()
                if not cell.awaits_restart:  # stopped, or restarted with others, since
                    await self._restart(self._suspended(), delay_s=0)
                    continue
                delay_s = self._history.record(cell.spec.name, at=self._runtime.clock.monotonic())
                self._log_end(cell, failure, delay_s)
                if delay_s is None:
                    raise self._intensity_exceeded(cell) from failure
                if self._supervision.strategy is Strategy.ONE_FOR_ONE:  # a child does not wait for another's back-off
                    restarts.create_task(self._restart([cell], delay_s), name=f"{cell.address}:restart")
                else:
                    await self._restart(await self._suspend_affected(cell), delay_s)

    async def stop(self) -> None:
        """Stop all children for good, in reverse order of their start."""
        while self._cells:
            await self._cells[-1].stop()

    async def _suspend_affected(self, ended: Cell) -> list[Cell]:
        """End the lives of all that are restarted with `ended`; returns those to start again."""
        affected = affected_children(self._supervision.strategy, self._cells, ended)
        affected = [cell for cell in affected if not cell.is_new]
        for cell in reversed(affected):
            if cell.spec.restart is RestartPolicy.TEMPORARY:
                await cell.stop()
            else:
                await cell.suspend()
        return affected

    def _suspended(self) -> list[Cell]:
        """Those that wait behind a sibling whose restart failed, and which was then stopped for good."""
        return [cell for cell in self._cells if cell.is_suspended]

    async def _restart(self, cells: list[Cell], delay_s: float) -> None:
        if cells:
            await self._runtime.clock.sleep(delay_s)
        for cell in cells:
            # One that fails to start has ended once more; what is behind it is restarted with it.
            if cell.awaits_restart and not await cell.restart():
                return

    def _intensity_exceeded(self, cell: Cell) -> RestartIntensityExceeded:
        settings = self._supervision
        return RestartIntensityExceeded(address=cell.address, intensity=settings.intensity, period_s=settings.period_s)

    def _log_end(self, cell: Cell, failure: BaseException | None, delay_s: float | None) -> None:
        """Log why a child is restarted, or why its supervisor gives up."""
        event = "actor_restart_scheduled" if delay_s is not None else "restart_intensity_exceeded"
        log.warning(
            event,
            actor=cell.address,
            supervisor=self._parent,
            cause="it stopped itself" if failure is None else repr(failure),
            num_restarts=cell.num_restarts,
            delay_s=delay_s,
            exc_info=failure,
        )
