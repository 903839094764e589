"""EngineThread: the engine in its one thread, bounded commands in, bounded events out.

async with EngineThread(factory) as engine:      # returns when the model is loaded
    await engine.submit(requests)
    async for events in engine.events():         # in one task, until the engine stops
        ...
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, TypeAlias

from parrot_mq.errors import EngineFailure, GenerationAborted, ParrotError, TaskCancelled
from parrot_mq.messages import LoadProgress
from parrot_workers.engine.base import (
    Engine,
    EngineEvent,
    EngineStatistics,
    Failed,
    Finished,
    GenerationRequest,
    PrefillRequest,
)
from parrot_workers.exchange import Command, Exchange, Pins, Prefills
from parrot_workers.loading import LoadReporter

__all__ = ["EngineFactory", "EngineThread", "EngineThreadState"]

EngineThreadState: TypeAlias = Literal["loading", "running", "failed", "stopped"]

EngineFactory: TypeAlias = Callable[[Callable[[str, float], None]], Engine]
"""Makes an engine, and reports meanwhile: what it does now, and how much of that is done, 0 to 1."""


class EngineThread:
    """Owns an engine and the one thread that calls it.

    Every request that was submitted ends with one `Finished` or `Failed` in `events()`, unless the thread is stopped
    first. If the engine breaks (`step` raises), all its requests end with `GenerationAborted`; then `events()` and
    `submit` raise `EngineFailure`.

    Args:
        factory: Makes the engine, in the thread: loading a model does not block the event loop. It gets a callable to
            report its progress; that raises `GenerationAborted` when the thread is stopped meanwhile.
        on_progress: Told on the event loop when there is progress.
        name: Name of the thread.
        max_commands: Submissions that may wait for the engine; `submit` waits while there are more.
        max_batches: Steps whose events may wait for the reader; the engine waits while there are more.
        grace_s: Seconds that stopping waits for the step in progress.
        check_after_s: Seconds without anything to do after which the engine proves its rules, once.
    """

    def __init__(
        self,
        factory: EngineFactory,
        *,
        on_progress: Callable[[LoadProgress], None] = lambda _: None,
        name: str = "engine",
        max_commands: int = 256,
        max_batches: int = 8,
        grace_s: float = 60.0,
        check_after_s: float = 5.0,
    ) -> None:
        self._factory = factory
        self._grace_s = grace_s
        self._check_after_s = check_after_s
        self._exchange = Exchange(max_commands=max_commands, max_batches=max_batches)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._reporter = LoadReporter(
            on_progress, is_stopping=lambda: self._exchange.is_stopping, tell_loop=self._tell_loop
        )
        # The loop waits on these; the thread sets them through the loop.
        self._has_events, self._has_room, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # Written by the thread, read anywhere.
        self._state: EngineThreadState = "loading"
        self._failure: ParrotError | None = None
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

        Cancel: the thread ends as soon as `factory` reports or returns; waits for that, `grace_s` at most.
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
        self._exchange.stop()
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
            self._has_room.clear()  # before looking: what is told from here on wakes us
            self._check_running()
            if self._exchange.try_submit(requests):
                return
            await self._has_room.wait()

    def cancel(self, keys: Iterable[str]) -> None:
        """Tell the engine to give up requests; each ends with `Failed(TaskCancelled)`, or as it ended before.

        Never waits, and does nothing once the thread has stopped.
        """
        self._exchange.cancel(keys)

    def pin(self, names: Iterable[str]) -> None:
        """Tell the engine which prefixes to keep: the complete set. Never waits; a set that is newer replaces it."""
        self._exchange.pin(names)

    def prefill(self, requests: Iterable[PrefillRequest]) -> None:
        """Tell the engine what to compute ahead: the complete set. Never waits; a set that is newer replaces it."""
        self._exchange.prefill(requests)

    async def events(self) -> AsyncIterator[list[EngineEvent]]:
        """Yield the events of one or more steps, in order, until the thread stops. One reader.

        Raises:
            EngineFailure: The engine broke; all events, with a `Failed` for each request, were yielded before.
        """
        while True:
            self._has_events.clear()  # before looking: what is told from here on wakes us
            has_ended = self._state in ("failed", "stopped")  # before taking: then nothing comes after what is taken
            if events := self._exchange.take_events():
                yield events
            elif not has_ended:
                await self._has_events.wait()
            elif self._failure is not None:
                raise self._failure
            else:
                return

    @property
    def state(self) -> EngineThreadState:
        """`loading` until the engine is made, then `running`, in the end `stopped`, or `failed` if the engine broke."""
        return self._state

    @property
    def failure(self) -> ParrotError | None:
        """Why the engine broke."""
        return self._failure

    @property
    def progress(self) -> LoadProgress:
        """What the factory reported last."""
        return self._reporter.progress

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
        """The engine's statistics after its last step. Thread: any."""
        return self._statistics

    def _check_running(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._exchange.is_stopping or self._state != "running":
            raise GenerationAborted(f"the engine is not running ({self._state})")

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            if self._state != "failed":
                self._state = "stopped"
            self._exchange.close()
            for event in (self._has_events, self._has_room, self._ended):
                self._tell_loop(event.set)

    def _serve(self) -> None:
        try:
            engine = self._factory(self._reporter)
            self._num_slots, self._max_context_tokens = engine.num_slots, engine.max_context_tokens
            self._statistics = engine.statistics()
        except BaseException as error:
            self._tell_loop(_set_exception, self._loaded, error)
            return
        self._state = "running"
        self._tell_loop(_set_done, self._loaded)
        try:
            self._work(engine)
        except Exception as error:
            self._fail(EngineFailure(cause=f"{type(error).__name__}: {error}"))

    def _work(self, engine: Engine) -> None:
        """Apply commands and run steps until the thread is to stop."""
        is_checked = True
        while True:
            self._step_started_at = None
            commands = self._exchange.wait_commands(
                lambda: engine.has_work,
                lambda: self._tell_loop(self._has_room.set),
                max_idle_s=None if is_checked else self._check_after_s,
            )
            if commands is None:
                return
            self._step_started_at = time.monotonic()
            is_checked = not (commands or engine.has_work)
            if is_checked:
                engine.check_integrity()
                continue
            for command in commands:
                self._apply(engine, command)
            self._step(engine)

    def _apply(self, engine: Engine, command: Command) -> None:
        match command:
            case Pins(names=names):
                engine.pin(names)
            case Prefills(requests=requests):
                engine.prefill(requests)
            case set():
                self._cancelled |= self._live & command
                self._live -= command
                engine.cancel(command)
            case _:
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
            self._exchange.put_events(events)
            self._tell_loop(self._has_events.set)

    def _fail(self, failure: EngineFailure) -> None:
        """End every request that the engine had or was to get: aborted, for another engine can still finish it."""
        self._step_started_at = None
        aborted = GenerationAborted(failure.message)
        left = {one.key for command in self._exchange.close() if isinstance(command, list) for one in command}
        self._exchange.put_events([Failed(key, aborted) for key in sorted(left | self._live | self._cancelled)])
        self._failure = failure
        self._state = "failed"

    def _tell_loop(self, callback: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *args)


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
