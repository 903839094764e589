"""Running the code of a native function: an `async def` as a task, any other in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple, ParamSpec, TypeVar

from parrot_mq.errors import CallError, CapacityExhausted
from parrot_mq.messages import NativeCall
from parrot_mq.observability import TraceContext, use_trace
from parrot_mq.program import NativeFunction

__all__ = ["Outcome", "current_call", "start_work"]

P = ParamSpec("P")
T = TypeVar("T")

_current: ContextVar[NativeCall | None] = ContextVar("parrot_mq_native_call", default=None)


def current_call() -> NativeCall:
    """The call that the code runs for, within a native function.

    Its `call` is the same however often the call is attempted: a key to do something once.

    Raises:
        CallError: No call is running here.
    """
    call = _current.get()
    if call is None:
        raise CallError("no call is running here; ask within a native function that a host runs")
    return call


class Outcome(NamedTuple):
    """How the code ended: what it returned, or what it raised."""

    value: object = None
    error: BaseException | None = None


def start_work(
    function: NativeFunction[..., Any],
    arguments: Mapping[str, str],
    call: NativeCall,
    trace: TraceContext | None = None,
) -> asyncio.Future[Outcome]:
    """Start the code, as a part of a trace. The future has its outcome; whatever the code raises ends nobody else.

    Cancel: a task is cancelled; a thread cannot be, and goes on.

    Raises:
        CapacityExhausted: The process can have no further thread.
    """
    loop = asyncio.get_running_loop()
    bound = inspect.BoundArguments(function.spec.signature, dict(arguments))
    with use_trace(trace):
        context = copy_context()
    context.run(_current.set, call)
    if function.spec.is_async:
        work = _await(function, bound)
        return loop.create_task(work, name=f"native:{function.name}", context=context)
    return loop.run_in_executor(_THREADS, context.run, _call, function, bound)


async def _await(function: NativeFunction[..., Any], bound: inspect.BoundArguments) -> Outcome:
    task = asyncio.current_task()
    try:
        return Outcome(value=await function.function(*bound.args, **bound.kwargs))
    except BaseException as error:  # also SystemExit, which would end the host
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        return Outcome(error=error)


def _call(function: NativeFunction[..., Any], bound: inspect.BoundArguments) -> Outcome:
    try:
        return Outcome(value=function.function(*bound.args, **bound.kwargs))
    except BaseException as error:
        return Outcome(error=error)


class _DaemonThreads(Executor):
    """A thread for each piece of work. Nobody waits for one when the process ends: some code never returns."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a thread; its end is that of the future."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            threading.Thread(target=work, name="native", daemon=True).start()
        except RuntimeError as error:
            raise CapacityExhausted(f"this process can have no further thread: {error}") from error
        return future


_THREADS = _DaemonThreads()
