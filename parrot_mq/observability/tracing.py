"""W3C trace context: which trace something belongs to, here and across messages.

With `opentelemetry-api` installed (the extra `tracing`) this is the context of OpenTelemetry's current span; without
it, a variable of our own. So a caller's trace goes on in tasks, tokens and values either way.

Source: W3C Recommendation "Trace Context", sections 3.2 (traceparent) and 3.3 (tracestate).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from parrot_mq.observability.otel import context_api, trace_api

__all__ = [
    "TRACEPARENT",
    "TRACESTATE",
    "TraceContext",
    "current_trace",
    "from_otel",
    "parse_trace",
    "read_trace",
    "to_otel",
    "trace_headers",
    "use_trace",
]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

MAX_STATE = 512
"""Characters of a trace state; a longer one is not passed on, which the standard allows."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z0-9][a-z0-9_\-*/]{0,13}"
_MEMBER = re.compile(rf"({_KEY})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e])")
_MAX_MEMBERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """Where something belongs in a trace.

    Attributes:
        trace_id: The trace, 32 hex digits.
        span_id: The step that led to it, 16 hex digits.
        flags: 2 hex digits; `01` means that the trace is recorded.
        state: What vendors pass on; never changed.
    """

    trace_id: str
    span_id: str
    flags: str = "00"
    state: str = ""

    @property
    def parent(self) -> str:
        """As the header `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self, what: str) -> TraceContext:
        """The next step; `what` names it, so that the same step has the same id when it is repeated."""
        span_id = hashlib.sha256(f"{self.trace_id}-{self.span_id}-{what}".encode()).hexdigest()[:16]
        return TraceContext(trace_id=self.trace_id, span_id=span_id, flags=self.flags, state=self.state)

    def headers(self) -> dict[str, str]:
        """As headers of a message."""
        headers = {TRACEPARENT: self.parent}
        return {**headers, TRACESTATE: self.state} if self.state else headers


# -- messages --------------------------------------------------------------------------------------------------------


def parse_trace(parent: str, state: str = "") -> TraceContext | None:
    """Read `traceparent` and `tracestate`.

    What cannot be read is as if it was not there, as the standard asks: without a parent there is no context, and a
    state that is wrong or too long is left out.
    """
    found = _TRACEPARENT.fullmatch(parent.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id=trace_id, span_id=span_id, flags=flags, state=_check_state(state.strip()))


def read_trace(headers: Mapping[str, str]) -> TraceContext | None:
    """The trace context that headers tell; None if there is none that can be read."""
    parent = headers.get(TRACEPARENT)
    return None if parent is None else parse_trace(parent, headers.get(TRACESTATE, ""))


def trace_headers(trace: TraceContext | None) -> dict[str, str]:
    """Headers that carry a context on; none if there is none."""
    return {} if trace is None else trace.headers()


def _check_state(state: str) -> str:
    members = [member for part in state.split(",") if (member := part.strip(" \t"))]
    if len(state) > MAX_STATE or len(members) > _MAX_MEMBERS:
        return ""
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in found if match is not None}
    return state if len(keys) == len(members) else ""


# -- this process ----------------------------------------------------------------------------------------------------

_current: ContextVar[TraceContext | None] = ContextVar("parrot_mq_trace", default=None)


def current_trace() -> TraceContext | None:
    """The context of what runs now: OpenTelemetry's current span, or what `use_trace` has set."""
    if trace_api is not None and (trace := from_otel(trace_api.get_current_span().get_span_context())) is not None:
        return trace
    return _current.get()


@contextmanager
def use_trace(trace: TraceContext | None) -> Iterator[None]:
    """Let the block, and the tasks that are started in it, belong to a trace, or to none."""
    token = _current.set(trace)
    otel_token = context_api.attach(to_otel(trace, context_api.get_current())) if trace_api is not None else None
    try:
        yield
    finally:
        if otel_token is not None:
            context_api.detach(otel_token)
        _current.reset(token)


# -- OpenTelemetry ---------------------------------------------------------------------------------------------------


def from_otel(context: Any) -> TraceContext | None:
    """What a `SpanContext` says; None for that of no span."""
    if not context.is_valid:
        return None
    return TraceContext(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        flags=f"{int(context.trace_flags):02x}",
        state=context.trace_state.to_header(),
    )


def to_otel(trace: TraceContext | None, base: Any = None) -> Any:
    """A context of OpenTelemetry in which this is the current span, of another process; without one, no span.

    Args:
        trace: The span.
        base: What else is in the context.
    """
    base = context_api.Context() if base is None else base
    if trace is None:
        return trace_api.set_span_in_context(trace_api.INVALID_SPAN, base)
    context = trace_api.SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(trace.span_id, 16),
        is_remote=True,
        trace_flags=trace_api.TraceFlags(int(trace.flags, 16)),
        trace_state=trace_api.TraceState.from_header([trace.state]) if trace.state else trace_api.TraceState(),
    )
    return trace_api.set_span_in_context(trace_api.NonRecordingSpan(context), base)
