"""W3C trace context: from the event to what is logged and to the result.

Source: W3C Recommendation "Trace Context", sections 3.2 (traceparent) and 3.3 (tracestate).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TRACEPARENT", "TRACESTATE", "TraceContext", "read_trace"]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE = 512


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

    def child(self, what: str) -> TraceContext:
        """The next step; `what` names it, so that the same step has the same id when it is repeated."""
        span_id = hashlib.sha256(f"{self.trace_id}-{self.span_id}-{what}".encode()).hexdigest()[:16]
        return TraceContext(trace_id=self.trace_id, span_id=span_id, flags=self.flags, state=self.state)

    def headers(self) -> dict[str, str]:
        """As headers of a message."""
        headers = {TRACEPARENT: f"00-{self.trace_id}-{self.span_id}-{self.flags}"}
        return {**headers, TRACESTATE: self.state} if self.state else headers


def read_trace(headers: Mapping[str, str]) -> TraceContext | None:
    """The trace context that headers tell; None if there is none that can be read, as the standard asks."""
    found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, "").strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = headers.get(TRACESTATE, "").strip()
    return TraceContext(
        trace_id=trace_id, span_id=span_id, flags=flags, state=state if len(state) <= _MAX_STATE else ""
    )
