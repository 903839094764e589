"""Logs are events with fields: readable on a terminal, fields in systemd's journal, JSON elsewhere.

They go to stderr or to the journal, so stdout is a command's result.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from parrot_mq.errors import ConfigurationError
from parrot_mq.observability.journal import Journal, JournalHandler, is_journal
from parrot_mq.observability.tracing import current_trace

__all__ = ["LogFormat", "configure_logging", "get_logger", "is_debug"]

LogFormat = Literal["auto", "pretty", "json", "journal"]
FORMATS = ("auto", "pretty", "json", "journal")
LEVELS = ("debug", "info", "warning", "error")


def configure_logging(
    level: str = "info",
    fmt: LogFormat = "auto",
    *,
    stream: TextIO | None = None,
    identifier: str = "parrot-mq",
    fields: Mapping[str, object] | None = None,
) -> None:
    """Set up the logs of this process, those of libraries that use `logging` included. May be called again.

    Args:
        level: The least that is written: debug, info, warning or error.
        fmt: `pretty` for people, `json` for machines, `journal` for systemd, `auto` for what fits where it goes.
        stream: Where to write; if None, what `sys.stderr` is at each line, so that a progress bar can take it over.
        identifier: Names this process in the journal.
        fields: What every event has in the journal: the slot of a worker.

    Raises:
        ConfigurationError: `level` or `fmt` is none of these.
    """
    if level.lower() not in LEVELS:
        raise ConfigurationError(f"the log level is one of {', '.join(LEVELS)}, not {level!r}")
    if fmt not in FORMATS:
        raise ConfigurationError(f"the log format is one of {', '.join(FORMATS)}, not {fmt!r}")
    threshold = logging.getLevelNamesMapping()[level.upper()]
    if fmt == "journal" or (fmt == "auto" and stream is None and is_journal()):
        _write_to_journal(Journal(identifier, fields or {}), threshold)
        return
    target = stream if stream is not None else cast(TextIO, _Stderr())
    is_pretty = fmt == "pretty" or (fmt == "auto" and target.isatty())
    renderers = _renderers(is_pretty=is_pretty, has_colors=target.isatty())
    structlog.configure(
        processors=[*_SHARED, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(target, renderers, threshold)


def _write_to_journal(journal: Journal, threshold: int) -> None:
    structlog.configure(
        processors=[*_SHARED, structlog.processors.format_exc_info, lambda _logger, _method, event: ((), event)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: journal,
        cache_logger_on_first_use=False,
    )
    _route_libraries(JournalHandler(journal), threshold)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose events carry the field `source`; may be called at import, before `configure_logging`.

    Where nobody configures anything, as in a program of somebody's own, warnings and errors go to stderr.
    """
    return cast(FilteringBoundLogger, _Logger(name))


def is_debug() -> bool:
    """Whether debug events were asked for; look before doing work that only they need."""
    if not structlog.is_configured():  # structlog writes everything then, which nobody asked for
        return False
    logger: FilteringBoundLogger = structlog.get_logger()
    return bool(logger.is_enabled_for(logging.DEBUG))


class _Logger:
    """What structlog is configured to; until it is, what `logging` does: warnings go to stderr, and nothing else."""

    def __init__(self, name: str) -> None:
        self._configured = structlog.get_logger(source=name)
        self._unconfigured = structlog.wrap_logger(
            structlog.WriteLogger(cast(TextIO, _Stderr())),
            processors=[*_SHARED, *_renderers(is_pretty=True, has_colors=False)],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            source=name,
        )

    def __getattr__(self, method: str) -> Any:
        return getattr(self._configured if structlog.is_configured() else self._unconfigured, method)


class _Stderr(io.TextIOBase):
    """Writes to what `sys.stderr` is now."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def _add_trace(logger: object, method: str, event: EventDict) -> EventDict:
    """Which trace a line belongs to, unless it says so itself."""
    if "trace_id" not in event and (trace := current_trace()) is not None:
        event["trace_id"] = trace.trace_id
    return event


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_trace,
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
    _route_libraries(handler, threshold)


def _route_libraries(handler: logging.Handler, threshold: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))
