"""What every stage does: say what it found as soon as it found it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["MARK", "Deadline", "tell", "timed"]

MARK: Final = "@@result "
"""Begins the lines of a stage's output that are results; the rest is for people."""


def tell(kind: str, **facts: Any) -> None:
    """Report one result; what was told is kept even if the stage fails later."""
    print(MARK + json.dumps({"kind": kind, **facts}), flush=True)


class Deadline:
    """The seconds that a stage has, given as its last argument."""

    def __init__(self) -> None:
        self._end = time.monotonic() + float(sys.argv[-1])

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()

    def allows(self, seconds: float, what: str) -> bool:
        """Whether there is time for something; what there is no time for is told."""
        if self.left_s < seconds:
            tell("skipped", what=what, needs_s=seconds, left_s=round(self.left_s, 1))
            return False
        return True


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result
