"""The traces of unfinished tasks: where each came from, and the span of the way from its submission to its end."""

from __future__ import annotations

from parrot_mq.bus import Delivery
from parrot_mq.messages import ErrorInfo, TaskAddress
from parrot_mq.observability import Span, TraceContext, is_recording, read_trace, start_span

__all__ = ["Traces"]

SPAN = "parrot_mq.task"


class Traces:
    """One span for each task that is in a trace; without OpenTelemetry, the context that came with it."""

    def __init__(self) -> None:
        self._spans: dict[TaskAddress, Span] = {}

    def begin(self, address: TaskAddress, delivery: Delivery) -> None:
        """A task is read, perhaps again; its span begins when it was stored."""
        parent = read_trace(delivery.headers)
        if address in self._spans or (parent is None and not is_recording()):
            return
        attributes = {
            "parrot_mq.tenant": address.tenant,
            "parrot_mq.session": address.session,
            "parrot_mq.task": address.task,
        }
        span = start_span(SPAN, parent, kind="consumer", attributes=attributes, started_at=delivery.timestamp)
        if span.trace is not None:
            self._spans[address] = span

    def of(self, address: TaskAddress) -> TraceContext | None:
        """What is done for a task belongs below this; None if it is in no trace, or finished."""
        span = self._spans.get(address)
        return span.trace if span is not None else None

    def describe(self, address: TaskAddress, *, function: str, model: str) -> None:
        """What a task does is known."""
        if (span := self._spans.get(address)) is not None:
            named = {"parrot_mq.function": function, "gen_ai.request.model": model}
            span.note({name: value for name, value in named.items() if value})

    def fail(self, address: TaskAddress, error: ErrorInfo) -> None:
        """An output of a task, or all of it, became an error."""
        if (span := self._spans.get(address)) is not None:
            span.fail(error.code, error.message)

    def end(self, address: TaskAddress) -> None:
        """A task is finished, or this coordinator has no more to do with it."""
        if (span := self._spans.pop(address, None)) is not None:
            span.end()

    def end_all(self) -> None:
        """The coordinator stops; the next one begins spans of its own."""
        for address in list(self._spans):
            self.end(address)
