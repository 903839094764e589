"""What happens to simulated services is told by the tests themselves; what goes wrong there is a part of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _warnings_only() -> Iterator[None]:
    """Services say much while they come and go, so only warnings are logged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()
