"""Running calls in a bounded number of places, whatever their code does."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from parrot_mq.bus import Bus
from parrot_mq.clock import Clock
from parrot_mq.errors import BlobMissing, FunctionTimedOut, ParrotError, TransportError
from parrot_mq.messages import ErrorInfo
from parrot_mq.native.answers import describe_failure, write_answer
from parrot_mq.native.arguments import read_arguments
from parrot_mq.native.served import ServedCall
from parrot_mq.native.work import Outcome, start_work
from parrot_mq.observability import Attributes, TraceContext, get_logger, start_span

__all__ = ["Answer", "Places"]

SPAN: Final = "parrot_mq.native"
OVERDUE_S: Final = 1.0
"""Code that goes on for so long after its call was given up is told of in the log."""

STOP_S: Final = 5.0
"""How long coroutines that were cancelled may take to end when the host does."""

Answer = str | ErrorInfo | ParrotError
"""The text that a call returns, or why there is none."""

log = get_logger(__name__)


class Places:
    """Runs as many calls at a time as there are places; further ones wait for their turn.

    A call whose time is over is given up, and its code is cancelled. A thread cannot be, and some coroutines do not end
    when they are: such code keeps its place until it returns, and is told of.
    """

    def __init__(self, bus: Bus, tenant: str, concurrency: int, *, host: str, clock: Clock) -> None:
        self._bus = bus
        self._tenant = tenant
        self._concurrency = concurrency
        self._host = host
        self._clock = clock
        self._places = asyncio.Semaphore(concurrency)
        self._overdue: dict[asyncio.Future[Outcome], None] = {}

    @property
    def num_usable(self) -> int:
        """Places but for those whose code does not return."""
        return self._concurrency - len(self._overdue)

    async def stop(self) -> None:
        """Let coroutines that were cancelled end in time, and leave alone what does not return."""
        if tasks := [work for work in self._overdue if isinstance(work, asyncio.Task)]:
            await asyncio.wait(tasks, timeout=STOP_S)
        if self._overdue:
            log.error("native_calls_abandoned", host=self._host, num_calls=len(self._overdue))
        for work in list(self._overdue):
            work.cancel()

    async def run(self, call: ServedCall) -> Answer:
        """Run a call; whatever happens to it is an answer. It is a span of the trace that it belongs to.

        Cancel: its code is cancelled, too, as far as it can be.
        """
        attributes: Attributes = {
            "parrot_mq.function": call.function.name,
            "parrot_mq.call": call.message.call,
            "parrot_mq.attempt": call.message.attempt,
        }
        span = start_span(SPAN, call.trace, kind="consumer", attributes=attributes)
        try:
            answer = await self._run_in_time(call, span.trace)
            if not isinstance(answer, str):
                span.fail(answer.code, answer.message)
            return answer
        finally:
            span.end()

    async def _run_in_time(self, call: ServedCall, trace: TraceContext | None) -> Answer:
        limit_s = self._limit_s(call)
        if limit_s <= 0:
            problem = f"its deadline had passed when it came to host {self._host!r} (are the clocks right?)"
            return FunctionTimedOut(function=call.function.name, problem=problem)
        try:
            async with asyncio.timeout(limit_s):
                outcome = await self._run(call, trace)
        except TimeoutError:
            problem = f"it was not done in the {limit_s:.3g} s that it had on host {self._host!r}"
            return FunctionTimedOut(function=call.function.name, problem=problem)
        except ParrotError as error:  # of the store, or there is no thread
            is_away = isinstance(error, TransportError) and not isinstance(error, BlobMissing)
            return msgspec.structs.replace(ErrorInfo.from_error(error), retryable=error.retryable or is_away)
        return self._answer(call, outcome)

    def _limit_s(self, call: ServedCall) -> float:
        """Seconds that are left for a call; one that names no deadline gets what the function says."""
        if not call.message.deadline:
            return call.function.attempt_timeout_s
        return call.message.deadline - self._clock.now()

    def _answer(self, call: ServedCall, outcome: Outcome) -> Answer:
        if outcome.error is not None:
            return self._failure(call, outcome.error)
        try:
            return write_answer(call.function, call.message.outputs, outcome.value)
        except Exception as error:  # what was returned is somebody's code, too
            return self._failure(call, error)

    def _failure(self, call: ServedCall, error: BaseException) -> ErrorInfo:
        """What the caller is told; the traceback stays here."""
        info = describe_failure(call.function, error)
        log.warning(
            "native_call_failed",
            function=call.function.name,
            call=call.message.call,
            attempt=call.message.attempt,
            code=info.code,
            retryable=info.retryable,
            exc_info=error,
        )
        return info

    async def _run(self, call: ServedCall, trace: TraceContext | None) -> Outcome:
        """Wait for a place, then run the code; the place is free again when the code has ended."""
        counts = call.counts
        counts.num_waiting += 1
        try:
            await self._places.acquire()
        finally:
            counts.num_waiting -= 1
        try:
            arguments = await read_arguments(self._bus, self._tenant, call.message.arguments)
            work = start_work(call.function, arguments, call.message, trace)
        except BaseException:
            self._places.release()
            raise
        work.add_done_callback(lambda _: self._places.release())
        return await self._wait(call, work)

    async def _wait(self, call: ServedCall, work: asyncio.Future[Outcome]) -> Outcome:
        began_at = self._clock.monotonic()
        call.counts.num_running += 1
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            self._give_up(call, work)
            raise
        finally:
            call.counts.num_running -= 1
        call.counts.duration.observe(self._clock.monotonic() - began_at)
        return Outcome(error=asyncio.CancelledError()) if work.cancelled() else work.result()

    def _give_up(self, call: ServedCall, work: asyncio.Future[Outcome]) -> None:
        function, is_async = call.function.name, call.function.spec.is_async
        if is_async:
            work.cancel()
        self._overdue[work] = None
        call.counts.num_overdue += 1

        def tell() -> None:
            log.error("native_call_overdue", function=function, call=call.message.call, is_async=is_async)

        def end(_: object) -> None:
            timer.cancel()
            del self._overdue[work]
            call.counts.num_overdue -= 1

        timer = asyncio.get_running_loop().call_later(OVERDUE_S, tell)
        work.add_done_callback(end)
