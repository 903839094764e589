"""Tasks that live as long as their owner."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from itertools import islice
from typing import Any, TypeVar

import structlog

__all__ = ["TaskOwner", "for_each"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_CANCEL_AGAIN_S = 2.0


async def for_each(items: Iterable[_T], work: Callable[[_T], Awaitable[None]], *, num_workers: int) -> None:
    """Call `work` for each item, some at a time; the first error ends the others and comes out bare."""
    waiting = iter(items)

    async def worker(item: _T) -> None:
        await work(item)
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for first in islice(waiting, num_workers):
                group.create_task(worker(first), name="bus:worker")
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class TaskOwner:
    """Starts tasks, and ends and awaits all of them in `aclose`.

    A bus is opened by `connect` and ended by `aclose`, perhaps in another task, so an `asyncio.TaskGroup`, which must
    be left by the task that entered it, does not fit. This is the one place of the bus that starts tasks.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}  # not a set: the order must not depend on addresses

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it ends, or until `aclose`; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_done)
        return task

    async def end(self, task: asyncio.Task[None] | None) -> None:
        """Cancel one task and wait for its end; the caller's own task is left to end by itself."""
        if task is None or task.done() or task is asyncio.current_task():
            return
        await _end_all([task])

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end. May be called twice, and by one of them."""
        own = asyncio.current_task()
        await _end_all([task for task in self._tasks if task is not own])

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bus_task_failed", task=task.get_name(), exc_info=error)


async def _end_all(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel, and again after a while: on Python 3.11 `asyncio.wait_for` can swallow a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)
