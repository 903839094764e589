"""EngineThread: the engine in its one thread, bounded commands in, bounded events out.

    async with EngineThread(factory) as engine:      # returns when the model is loaded
        await engine.submit(requests)
        async for events in engine.events():         # in one task, until the engine stops
            ...

Everything the two threads share lives under one lock, which is held for list operations only.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, TypeAlias

from parrot_mq.errors import EngineFailure, GenerationAborted, ParrotError, TaskCancelled
from parrot_workers.engine.base import Engine, EngineEvent, EngineStatistics, Failed, Finished, GenerationRequest

__all__ = ["EngineThread", "EngineThreadState"]

EngineThreadState: TypeAlias = Literal["loading", "running", "failed", "stopped"]


class EngineThread:
    """Owns an engine and the one thread that calls it.

    Every request that was submitted ends with one `Finished` or `Failed` in `events()`, unless the thread is stopped
    first. If the engine breaks (`step` raises), all its requests end with `EngineFailure`; then `events()` and `submit`
    raise it.

    Args:
        factory: Makes the engine, in the thread: loading a model does not block the event loop.
        name: Name of the thread.
        max_commands: Submissions that may wait for the engine; `submit` waits while there are more.
        max_batches: Steps whose events may wait for the reader; the engine waits while there are more.
        grace_s: Seconds that stopping waits for the step in progress.
    """

    def __init__(
        self,
        factory: Callable[[], Engine],
        *,
        name: str = "engine",
        max_commands: int = 256,
        max_batches: int = 8,
        grace_s: float = 60.0,
    ) -> None:
        self._factory = factory
        self._max_commands = max_commands
        self._max_batches = max_batches
        self._grace_s = grace_s
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # Shared, under the lock. The thread waits on the condition, the loop on asyncio events that the thread sets.
        self._changed = threading.Condition(threading.Lock())
        self._state: EngineThreadState = "loading"
        self._failure: ParrotError | None = None
        self._stopping = False
        self._commands: deque[_Command] = deque()
        self._num_submits = 0
        self._outbox: deque[list[EngineEvent]] = deque()
        self._has_events, self._has_room, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # Written by the thread, read anywhere.
        self._statistics = EngineStatistics()
        self._last_step_at = time.monotonic()
        self._step_started_at: float | None = None
        self._num_slots = self._max_context_tokens = 0
        # The thread's own: requests that have not ended, and those whose cancellation the next step will tell.
        self._live: set[str] = set()
        self._cancelled: set[str] = set()

    # -- lifetime ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the thread and wait until the engine is made.

        Raises:
            Exception: What `factory` raised.

        Cancel: the thread ends as soon as `factory` returns; waits for that, `grace_s` at most.
        """
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._thread.start()
        try:
            await self._loaded
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the thread after the step in progress; may be called twice. Requests that have not ended get no event.

        Raises:
            EngineFailure: The step did not end in `grace_s`. The thread is left behind; it ends with the process.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is None:
            return  # it was never started
        try:
            async with asyncio.timeout(self._grace_s):
                await self._ended.wait()
        except TimeoutError:
            raise EngineFailure(cause=f"it did not stop within {self._grace_s:g} s") from None
        self._thread.join()  # its last action was to set `_ended`

    # -- for the event loop ------------------------------------------------------------------------------------------

    async def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Hand requests to the engine; waits while `max_commands` submissions are waiting already.

        Raises:
            EngineFailure: The engine is broken.
            GenerationAborted: The thread has stopped.

        Cancel: nothing was submitted.
        """
        while True:
            with self._changed:
                self._check_running()
                if self._num_submits < self._max_commands:
                    self._num_submits += 1
                    self._commands.append(list(requests))
                    self._changed.notify_all()
                    return
                self._has_room.clear()
            await self._has_room.wait()

    def cancel(self, keys: Iterable[str]) -> None:
        """Tell the engine to give up requests; each ends with `Failed(TaskCancelled)`, or as it ended before.

        Never waits, and does nothing once the thread has stopped.
        """
        with self._changed:
            if self._stopping or self._state != "running":
                return
            if self._commands and isinstance(self._commands[-1], set):
                self._commands[-1].update(keys)  # so cancellations are bounded by the submissions between them
            else:
                self._commands.append(set(keys))
            self._changed.notify_all()

    async def events(self) -> AsyncIterator[list[EngineEvent]]:
        """Yield the events of one or more steps, in order, until the thread stops. One reader.

        Raises:
            EngineFailure: The engine broke; all events, with a `Failed` for each request, were yielded before.
        """
        while True:
            self._has_events.clear()
            with self._changed:
                batches, failure, ended = list(self._outbox), self._failure, self._state in ("failed", "stopped")
                self._outbox.clear()
                self._changed.notify_all()
            if batches:
                yield [event for batch in batches for event in batch]
            elif failure:
                raise failure
            elif ended:
                return
            else:
                await self._has_events.wait()

    @property
    def state(self) -> EngineThreadState:
        """`loading` until the engine is made, then `running`, in the end `stopped`, or `failed` if the engine broke."""
        return self._state

    @property
    def failure(self) -> ParrotError | None:
        """Why the engine broke."""
        return self._failure

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def last_step_at(self) -> float:
        """When the engine last ended a step, on `time.monotonic`. Old when it is idle: see `step_duration_s`."""
        return self._last_step_at

    @property
    def step_duration_s(self) -> float:
        """How long the step in progress has taken; 0 while the engine is idle or waits for the reader of its events."""
        started_at = self._step_started_at
        return 0.0 if started_at is None else time.monotonic() - started_at

    def statistics(self) -> EngineStatistics:
        """The engine's statistics after its last step."""
        return self._statistics

    def _check_running(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopping or self._state != "running":
            raise GenerationAborted(f"the engine is not running ({self._state})")

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            with self._changed:
                if self._state != "failed":
                    self._state = "stopped"
            for event in (self._has_events, self._has_room, self._ended):
                self._tell_loop(event.set)

    def _serve(self) -> None:
        try:
            engine = self._factory()
            self._num_slots, self._max_context_tokens = engine.num_slots, engine.max_context_tokens
        except BaseException as error:
            self._tell_loop(_set_exception, self._loaded, error)
            return
        with self._changed:
            self._state = "running"
        self._tell_loop(_set_done, self._loaded)
        try:
            while (commands := self._next_commands(engine)) is not None:
                self._apply(engine, commands)
                self._step(engine)
        except Exception as error:
            self._fail(EngineFailure(cause=f"{type(error).__name__}: {error}"))

    def _next_commands(self, engine: Engine) -> list[_Command] | None:
        """Wait for commands, or for work and a reader. Returns: none when the thread is to stop."""
        self._step_started_at = None
        with self._changed:
            while not self._stopping:
                is_due = bool(self._commands) or engine.has_work
                if is_due and len(self._outbox) < self._max_batches:
                    commands = list(self._commands)
                    self._commands.clear()
                    was_full, self._num_submits = self._num_submits >= self._max_commands, 0
                    if was_full:
                        self._tell_loop(self._has_room.set)
                    return commands
                self._changed.wait()
        return None

    def _apply(self, engine: Engine, commands: list[_Command]) -> None:
        self._step_started_at = time.monotonic()
        for command in commands:
            if isinstance(command, set):
                self._cancelled |= self._live & command
                self._live -= command
                engine.cancel(command)
            else:
                self._live.update(request.key for request in command)
                engine.submit(command)

    def _step(self, engine: Engine) -> None:
        """Run one step and hand out its events."""
        events = engine.step()
        self._live -= {event.key for event in events if _is_end(event)}
        self._cancelled.clear()
        self._statistics = engine.statistics()
        self._last_step_at = time.monotonic()
        if events:
            with self._changed:
                self._outbox.append(events)
            self._tell_loop(self._has_events.set)

    def _fail(self, failure: EngineFailure) -> None:
        """End every request that the engine had or was to get."""
        self._step_started_at = None
        with self._changed:
            waiting = {r.key for command in self._commands if not isinstance(command, set) for r in command}
            self._commands.clear()
            self._outbox.append([Failed(key, failure) for key in sorted(waiting | self._live | self._cancelled)])
            self._failure = failure
            self._state = "failed"

    def _tell_loop(self, callback: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *args)


_Command: TypeAlias = list[GenerationRequest] | set[str]


def _is_end(event: EngineEvent) -> bool:
    """True for what ends a live request. A cancelled one is not live any more, and its key may be again."""
    if isinstance(event, Failed):
        return not isinstance(event.error, TaskCancelled)
    return isinstance(event, Finished)


def _set_exception(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
