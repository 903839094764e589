"""What operators see: logs."""

from parrot_mq.observability.logging import LogFormat, configure_logging, get_logger

__all__ = ["LogFormat", "configure_logging", "get_logger"]
