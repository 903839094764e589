"""An event loop whose time is a number: it jumps to the next timer when nothing else is left to do."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from parrot_mq.types import ids_from

__all__ = [
    "EPOCH",
    "SimulatedClock",
    "SimulationDeadlock",
    "SimulationError",
    "SimulationStuck",
    "SimulationTimeout",
    "VirtualTimeLoop",
    "run_simulation",
]

EPOCH: Final = 1_767_225_600.0
"""What `SimulatedClock.now` says when a simulation begins: 2026-01-01, 00:00 UTC."""

_MAX_TURNS: Final = 200_000
_MAX_LINES: Final = 60
_T = TypeVar("_T")


class SimulationError(RuntimeError):
    """A simulation cannot go on."""


class SimulationDeadlock(SimulationError):
    """Everybody waits, and nothing is left that could happen: no callback is ready and no timer runs."""


class SimulationTimeout(SimulationError):
    """The simulated time that was allowed is over."""


class SimulationStuck(SimulationError):
    """Something is always ready to run, so time stands still."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Runs coroutines and callbacks, but no I/O; sleeping costs nothing.

    With a seed, tasks that are ready at the same time run in a random order, which depends on nothing but the seed; the
    order of plain callbacks stays, as asyncio promises it. Threads (`asyncio.to_thread`) work: time stands still
    while one runs.

    Args:
        seed: Decides the order of tasks; None keeps the order in which they became ready.
        limit_s: After so much simulated time it raises `SimulationTimeout`.
    """

    _ready: deque[asyncio.Handle]  # of the base class, as are the next two
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, seed: int | None = None, *, limit_s: float = float("inf")) -> None:
        self._now = 0.0
        super().__init__()
        self._selector = self  # the base class asks its selector what happens next
        self._rng = None if seed is None else random.Random(seed)
        self._limit_s = limit_s
        self._is_ending = False
        self._num_turns = 0
        self._num_jobs = 0
        self._woken = threading.Event()

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._now

    def end(self) -> None:
        """From now on time is not limited, so that tasks which are cancelled can end."""
        self._is_ending = True

    @property
    def _clock_resolution(self) -> float:
        """So small that no timer runs before its time: one that did, and waited for the rest, would stop time."""
        return math.ulp(self._now)

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """What the base class knows of the real clock does not matter."""

    # -- what the base class needs -----------------------------------------------------------------------------------

    def _run_once(self) -> None:
        if self._rng is not None and len(self._ready) > 1:
            self._shuffle(self._rng)
        super()._run_once()  # type: ignore[misc]  # the base class has it, but the stubs do not tell

    def _shuffle(self, rng: random.Random) -> None:
        """Let tasks change places among themselves; a task is ready once at most."""
        ready = tuple(self._ready)  # a thread that ends may add to it meanwhile, at its end
        places = [place for place, handle in enumerate(ready) if _is_of_task(handle)]
        if len(places) < 2:
            return
        handles = [self._ready[place] for place in places]
        rng.shuffle(handles)
        for place, handle in zip(places, handles, strict=True):
            self._ready[place] = handle

    def select(self, timeout: float | None) -> list[Any]:
        """Let time pass until the next timer is due."""
        if self._ready or self._stopping:
            self._num_turns += 1
            if self._num_turns > _MAX_TURNS:
                self._num_turns = 0
                raise SimulationStuck(
                    f"time stands still at {self._now:.6f} s since {_MAX_TURNS} turns\n{self._report()}"
                )
            return []
        self._num_turns = 0
        if self._num_jobs:
            self._woken.wait()
            self._woken.clear()
        elif timeout is None:
            raise SimulationDeadlock(f"nothing can happen any more, at {self._now:.6f} s\n{self._report()}")
        else:
            self._jump(self._scheduled[0].when())
        return []

    def _jump(self, when: float) -> None:
        if when > self._limit_s and not self._is_ending:
            self.end()
            raise SimulationTimeout(f"not done after {self._limit_s:g} simulated seconds\n{self._report()}")
        self._now = max(self._now, when)

    def _process_events(self, event_list: list[Any]) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        self._woken.set()

    # -- threads -----------------------------------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]  # the types of the base class cannot be passed on to it
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread; time stands still meanwhile."""
        job = super().run_in_executor(executor, func, *args)
        self._num_jobs += 1
        job.add_done_callback(self._on_job_done)
        return job

    def _on_job_done(self, _: object) -> None:
        self._num_jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """End the threads."""
        self._num_jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._num_jobs -= 1

    # -- who waits for what ------------------------------------------------------------------------------------------

    def _report(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"  {task.get_name()}: {_where(task)}" for task in tasks[:_MAX_LINES]]
        if len(tasks) > _MAX_LINES:
            lines.append(f"  and {len(tasks) - _MAX_LINES} more")
        return "\n".join(["what everybody waits for:", *lines])


class SimulatedClock:
    """A `Clock` that tells the time of the running `VirtualTimeLoop`."""

    def now(self) -> float:
        return EPOCH + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


def run_simulation(
    main: Callable[[], Coroutine[Any, Any, _T]], *, seed: int | None = 0, limit_s: float = 86_400.0
) -> _T:
    """Run `main()` to its end in virtual time; the seed decides everything that is left to chance.

    Args:
        main: What happens.
        seed: For the order of tasks that are ready together, and for fresh ids; None keeps the order of asyncio.
        limit_s: Simulated seconds after which `main` must have ended.

    Raises:
        SimulationDeadlock: Nobody can go on; the message says what everybody waits for.
        SimulationTimeout: `main` has not ended in time.
        SimulationStuck: Time does not pass any more.
    """
    loop = VirtualTimeLoop(seed, limit_s=limit_s)
    with _named_seed(seed), ids_from(_hex_of(seed)), asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(main())
        finally:
            loop.end()


@contextmanager
def _named_seed(seed: int | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"in a simulation with seed {seed}")
        raise


def _hex_of(seed: int | None) -> Callable[[int], str]:
    rng = random.Random(f"ids of {seed}")
    return lambda num_bytes: rng.randbytes(num_bytes).hex()


def _is_of_task(handle: asyncio.Handle) -> bool:
    callback = getattr(handle, "_callback", None)
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


def _where(task: asyncio.Task[Any]) -> str:
    """The innermost place at which a task waits."""
    place, waiting = "not started", task.get_coro()
    while waiting is not None and (frame := getattr(waiting, "cr_frame", None)) is not None:
        place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        waiting = waiting.cr_await  # type: ignore[union-attr]
    return place
