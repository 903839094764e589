"""Actors and tools that several tests use."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, MutableMapping
from itertools import count
from typing import Any

import structlog

from parrot_mq.actors import Actor, ActorRef, Ref
from parrot_mq.errors import ActorError, TransformError


class ManualClock:
    """A clock that moves only when the test says so."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    @property
    def delays_s(self) -> list[float]:
        """Seconds until each sleeper wakes."""
        return [due - self._now for due, _, wake in sorted(self._sleepers) if not wake.done()]

    async def sleep(self, delay_s: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + delay_s, next(self._numbers), wake))
        await wake

    async def advance(self, delay_s: float) -> None:
        """Let time pass; everybody whose time has come runs until it waits again."""
        end = self._now + delay_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, wake = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not wake.done():
                wake.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle(num_turns: int = 30) -> None:
    """Let every task that can run do so; in-process work of these tests needs far fewer turns."""
    for _ in range(num_turns):
        await asyncio.sleep(0)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is true that tasks of this loop bring about."""
    async with asyncio.timeout(10):
        while not condition():  # any task may bring it about, so there is no event to wait for
            await settle(1)


def keep_logs(events: list[MutableMapping[str, Any]], *, level: int) -> None:
    """Let logs of `level` and above go into `events`."""

    def keep(_logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        events.append({**event, "log_level": method})
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(level))


class Crash(Exception):
    """What test actors fail with."""


class Recorder(Actor):
    """Keeps what it was told and does what it is asked; `diary` outlives it and holds what became of its lives."""

    def __init__(self, diary: list[str] | None = None, *, name: str = "actor") -> None:
        self.diary = diary if diary is not None else []
        self.name = name
        self.seen: list[Any] = []

    async def on_start(self) -> None:
        self.diary.append(f"start {self.name}")

    async def receive(self, message: Any) -> object:
        match message:
            case "crash":
                raise Crash("as told")
            case "refuse":
                raise TransformError("cannot transform this")
            case "stop":
                self.context.stop()
            case "seen":
                return list(self.seen)
            case asyncio.Event() as gate:
                await gate.wait()
            case Callable() as act:
                return await act(self)
            case _:
                self.seen.append(message)
        return None

    async def on_stop(self) -> None:
        self.diary.append(f"stop {self.name}")


async def seen_by(ref: ActorRef) -> list[Any]:
    """What a recorder was told so far."""
    seen: list[Any] = await ref.ask("seen", timeout_s=5)
    return seen


async def ask_for_error(ref: Ref, message: object) -> Exception | None:
    """The error that an ask ends with; as a value, so that a task can wait for it."""
    try:
        await ref.ask(message, timeout_s=5)
    except ActorError as error:
        return error
    return None
