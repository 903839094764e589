"""What a worker says about a generation: its value or error, which are facts; tokens and events, which may be lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from parrot_mq.bus import Bus, fail_variable, set_variable
from parrot_mq.clock import Clock
from parrot_mq.errors import ConnectionClosed, ParrotError, TransportError, VariableAlreadySet
from parrot_mq.messages import (
    EventKind,
    Generation,
    Message,
    TaskEvent,
    TokenDelta,
    Usage,
    VariableAddress,
    encode_json,
    event_subject,
    stream_subject,
)
from parrot_mq.observability import get_logger, trace_headers, use_trace
from parrot_mq.types import SessionId, TenantId, VariableId
from parrot_workers.engine.base import Delta, Finished, Started
from parrot_workers.spans import Spans

__all__ = ["Reports"]

RETRY_S = 0.5

log = get_logger(__name__)


class Reports:
    """Writes for one worker."""

    def __init__(self, bus: Bus, worker: str, clock: Clock, spans: Spans) -> None:
        self._bus = bus
        self._worker = worker
        self._clock = clock
        self._spans = spans

    def headers(self, generation: Generation) -> dict[str, str]:
        """What carries the trace of a generation on."""
        return trace_headers(self._spans.of(generation))

    # -- facts -------------------------------------------------------------------------------------------------------

    async def value(self, generation: Generation, finished: Finished, *, started_at: float) -> None:
        """Set the variable, and say what it cost; returns when it is set, by us or by somebody else.

        Args:
            generation: Which one.
            finished: Its text, and the counts.
            started_at: When its prompt had been read, seconds since 1970.

        Raises:
            TransportError: The server refuses it. While the server is away, it is waited for.
        """
        address = _address(generation)
        usage = Usage(
            num_prompt_tokens=finished.num_prompt_tokens,
            num_shared_tokens=finished.num_shared_tokens,
            num_prefilled_tokens=finished.num_prefilled_tokens,
            num_output_tokens=finished.num_output_tokens,
            attempt=generation.attempt,
            started_at=started_at,
            finished_at=self._clock.now(),
        )
        try:
            with use_trace(self._spans.of(generation)):
                await self._keep_trying(
                    lambda: set_variable(self._bus, address, finished.text, producer=self._worker, usage=usage)
                )
        except VariableAlreadySet:
            log.info("result_not_needed", **self._fields(generation))
        else:
            await self._tell(generation, "finished", finished, num_output_tokens=finished.num_output_tokens)

    async def error(self, generation: Generation, error: BaseException) -> None:
        """Fail the variable, unless it is set; raises as `value` does."""
        log.warning("generation_failed", **self._fields(generation), error=str(error))
        address = _address(generation)
        with use_trace(self._spans.of(generation)):
            await self._keep_trying(lambda: fail_variable(self._bus, address, error, producer=self._worker))

    async def _keep_trying(self, store: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await store()
                return
            except TransportError as error:
                if not error.retryable:
                    raise
                log.warning("result_is_kept", reason=error.message)
                await self._clock.sleep(RETRY_S)

    # -- at most once ------------------------------------------------------------------------------------------------

    async def started(self, generation: Generation, started: Started) -> None:
        """Tell that the prompt has been read."""
        await self._tell(generation, "started", started)

    async def delta(self, generation: Generation, delta: Delta) -> None:
        """Send new text to who listens."""
        subject = stream_subject(generation.tenant, generation.session, generation.variable)
        message = TokenDelta(
            attempt=generation.attempt, offset=delta.offset, text=delta.text, logprobs=list(delta.logprobs)
        )
        await self._publish(subject, message, headers=self.headers(generation))

    async def _tell(
        self, generation: Generation, kind: EventKind, counts: Started | Finished, *, num_output_tokens: int = 0
    ) -> None:
        event = TaskEvent(
            kind=kind,
            task=generation.task,
            variable=generation.variable,
            at=self._clock.now(),
            worker=self._worker,
            num_prompt_tokens=counts.num_prompt_tokens,
            num_shared_tokens=counts.num_shared_tokens,
            num_prefilled_tokens=counts.num_prefilled_tokens,
            num_output_tokens=num_output_tokens,
            trace=trace.parent if (trace := self._spans.of(generation)) is not None else "",
        )
        await self._publish(event_subject(generation.tenant, generation.session, kind), event)

    async def _publish(self, subject: str, message: Message, *, headers: Mapping[str, str] | None = None) -> None:
        try:
            await self._bus.publish(subject, encode_json(message), headers=headers)
        except ConnectionClosed:
            raise
        except ParrotError as error:  # too large, say; nothing depends on it
            log.warning("report_dropped", subject=subject, error=error.message)

    def _fields(self, generation: Generation) -> dict[str, str]:
        """What a log line says of a generation."""
        trace = self._spans.of(generation)
        traced = {"trace_id": trace.trace_id} if trace is not None else {}
        return {"variable": generation.variable, "session": generation.session, **traced}


def _address(generation: Generation) -> VariableAddress:
    return VariableAddress(TenantId(generation.tenant), SessionId(generation.session), VariableId(generation.variable))
