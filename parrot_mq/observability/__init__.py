"""What operators see: logs and metrics. `metrics` is imported at the point of choice: it needs prometheus-client."""

from parrot_mq.observability.histogram import Distribution, Histogram
from parrot_mq.observability.logging import LogFormat, configure_logging, get_logger
from parrot_mq.observability.service_manager import Condition, Notifier, ServiceReporter, reporting_service

__all__ = [
    "Condition",
    "Distribution",
    "Histogram",
    "LogFormat",
    "Notifier",
    "ServiceReporter",
    "configure_logging",
    "get_logger",
    "reporting_service",
]
