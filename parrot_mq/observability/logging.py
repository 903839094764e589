"""Logs are events with fields: readable on a terminal, JSON elsewhere; on stderr, so stdout is a command's result."""

from __future__ import annotations

import io
import logging
import sys
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from parrot_mq.errors import ConfigurationError

__all__ = ["LogFormat", "configure_logging", "get_logger", "is_debug"]

LogFormat = Literal["auto", "pretty", "json"]
LEVELS = ("debug", "info", "warning", "error")


def configure_logging(level: str = "info", fmt: LogFormat = "auto", *, stream: TextIO | None = None) -> None:
    """Set up the logs of this process, those of libraries that use `logging` included. May be called again.

    Args:
        level: The least that is written: debug, info, warning or error.
        fmt: `pretty` for people, `json` for machines, `auto` for what fits `stream`.
        stream: Where to write; if None, what `sys.stderr` is at each line, so that a progress bar can take it over.

    Raises:
        ConfigurationError: `level` or `fmt` is none of these.
    """
    if level.lower() not in LEVELS:
        raise ConfigurationError(f"the log level is one of {', '.join(LEVELS)}, not {level!r}")
    if fmt not in ("auto", "pretty", "json"):
        raise ConfigurationError(f"the log format is one of auto, pretty, json, not {fmt!r}")
    target = stream if stream is not None else cast(TextIO, _Stderr())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    is_pretty = fmt == "pretty" or (fmt == "auto" and target.isatty())
    renderers = _renderers(is_pretty=is_pretty, has_colors=target.isatty())
    structlog.configure(
        processors=[*_SHARED, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(target, renderers, threshold)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose events carry the field `source`; may be called at import, before `configure_logging`."""
    logger: FilteringBoundLogger = structlog.get_logger(source=name)
    return logger


def is_debug() -> bool:
    """Whether debug events were asked for; look before doing work that only they need."""
    if not structlog.is_configured():  # structlog writes everything then, which nobody asked for
        return False
    logger: FilteringBoundLogger = structlog.get_logger()
    return bool(logger.is_enabled_for(logging.DEBUG))


class _Stderr(io.TextIOBase):
    """Writes to what `sys.stderr` is now."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def _renderers(*, is_pretty: bool, has_colors: bool) -> list[Processor]:
    """The last steps. Tracebacks come without local variables: these hold prompts."""
    if is_pretty:
        return [structlog.dev.ConsoleRenderer(colors=has_colors, exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _add_source(logger: object, method: str, event: EventDict) -> EventDict:
    event["source"] = event["_record"].name
    return event


def _configure_libraries(target: TextIO, renderers: list[Processor], threshold: int) -> None:
    """Let records of `logging` (nats, transformers, asyncio) take the same form; theirs below warning are noise."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_SHARED, _add_source],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
