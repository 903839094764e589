"""The API of OpenTelemetry, if it is installed (the extra `tracing`)."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["context_api", "trace_api"]


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


trace_api: Any = _load("opentelemetry.trace")
"""The module `opentelemetry.trace`, or None."""
context_api: Any = _load("opentelemetry.context")
"""The module `opentelemetry.context`, or None: both are there or none."""
