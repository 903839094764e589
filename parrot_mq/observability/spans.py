"""Spans of OpenTelemetry, where somebody records them; elsewhere only the trace context goes on, and nothing is kept.

Whoever runs a process decides about the SDK and its exporter, for instance with `opentelemetry-instrument parrot-mq …`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from parrot_mq.observability.otel import trace_api
from parrot_mq.observability.tracing import TraceContext, from_otel, to_otel

__all__ = ["Attributes", "Span", "is_recording", "start_span"]

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]
"""Names and values, as OpenTelemetry takes them."""

SpanKind = Literal["consumer", "internal"]

_NANOSECONDS = 1_000_000_000
_NOBODY = () if trace_api is None else (trace_api.ProxyTracerProvider, trace_api.NoOpTracerProvider)


def is_recording() -> bool:
    """Whether somebody records spans; look before describing one that is in no trace."""
    return _provider() is not None


class Span:
    """A step of a trace that takes time. All methods may be called after its end; then they do nothing.

    Attributes:
        trace: What is said to those who work for it: they belong below this span.
    """

    def __init__(self, trace: TraceContext | None, recorder: Any = None) -> None:
        self.trace = trace
        self._recorder = recorder

    def note(self, attributes: Attributes) -> None:
        """Say more of it."""
        if self._recorder is not None:
            self._recorder.set_attributes(dict(attributes))

    def fail(self, code: str, message: str = "") -> None:
        """It went wrong; `code` is that of the error."""
        if self._recorder is not None:
            self._recorder.set_attribute("error.type", code)
            self._recorder.set_status(trace_api.Status(trace_api.StatusCode.ERROR, message or code))

    def end(self) -> None:
        """It is over now."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.end()


def start_span(
    name: str,
    parent: TraceContext | None,
    *,
    kind: SpanKind,
    attributes: Attributes,
    started_at: float | None = None,
) -> Span:
    """Begin a span below `parent`, or a trace of its own without one.

    Args:
        name: What is done; few different ones.
        parent: On whose behalf.
        kind: `consumer` for what was handed over and is done some time, `internal` for all else.
        attributes: What is known of it.
        started_at: When it began, seconds since 1970; now, if None.
    """
    provider = _provider()
    if provider is None:
        return Span(parent)
    recorder = provider.get_tracer("parrot_mq").start_span(
        name,
        context=to_otel(parent),
        kind=trace_api.SpanKind.CONSUMER if kind == "consumer" else trace_api.SpanKind.INTERNAL,
        attributes=dict(attributes),
        start_time=None if started_at is None else int(started_at * _NANOSECONDS),
    )
    trace = from_otel(recorder.get_span_context()) or parent
    return Span(trace, recorder if recorder.is_recording() else None)


def _provider() -> Any:
    """Who records spans; None if nobody does."""
    if trace_api is None:
        return None
    provider = trace_api.get_tracer_provider()
    return None if isinstance(provider, _NOBODY) else provider
