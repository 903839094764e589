"""What operators see: logs, metrics and traces.

`metrics` is imported at the point of choice: it needs prometheus-client.
"""

from parrot_mq.observability.histogram import Distribution, Histogram
from parrot_mq.observability.logging import LogFormat, configure_logging, get_logger
from parrot_mq.observability.service_manager import Condition, Notifier, ServiceReporter, reporting_service
from parrot_mq.observability.spans import Attributes, Span, is_recording, start_span
from parrot_mq.observability.tracing import (
    TraceContext,
    current_trace,
    parse_trace,
    read_trace,
    trace_headers,
    use_trace,
)

__all__ = [
    "Attributes",
    "Condition",
    "Distribution",
    "Histogram",
    "LogFormat",
    "Notifier",
    "ServiceReporter",
    "Span",
    "TraceContext",
    "configure_logging",
    "current_trace",
    "get_logger",
    "is_recording",
    "parse_trace",
    "read_trace",
    "reporting_service",
    "start_span",
    "trace_headers",
    "use_trace",
]
