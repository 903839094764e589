"""What operators see: logs and metrics. `metrics` is imported at the point of choice: it needs prometheus-client."""

from parrot_mq.observability.histogram import Distribution, Histogram
from parrot_mq.observability.logging import LogFormat, configure_logging, get_logger

__all__ = ["Distribution", "Histogram", "LogFormat", "configure_logging", "get_logger"]
