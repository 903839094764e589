"""An engine that takes a step only when the test allows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from parrot_workers.engine import Engine, EngineEvent, EngineStatistics, GenerationRequest, PrefillRequest

__all__ = ["SteppedEngine"]


class SteppedEngine:
    """Passes everything to another engine, but steps. Thread: `allow` any, all else as an engine."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self._allowed = threading.Semaphore(0)

    def allow(self, num_steps: int) -> None:
        """Let it take so many more steps with work."""
        self._allowed.release(num_steps)

    @property
    def num_slots(self) -> int:
        return self._inner.num_slots

    @property
    def max_context_tokens(self) -> int:
        return self._inner.max_context_tokens

    @property
    def has_work(self) -> bool:
        return self._inner.has_work

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        self._inner.submit(requests)

    def cancel(self, keys: Iterable[str]) -> None:
        self._inner.cancel(keys)

    def pin(self, names: Iterable[str]) -> None:
        self._inner.pin(names)

    def prefill(self, requests: Sequence[PrefillRequest]) -> None:
        self._inner.prefill(requests)

    def step(self) -> list[EngineEvent]:
        if not self.has_work:
            return []
        if not self._allowed.acquire(blocking=False):
            time.sleep(0.001)
            return []
        return self._inner.step()

    def statistics(self) -> EngineStatistics:
        return self._inner.statistics()

    def check_integrity(self) -> None:
        self._inner.check_integrity()
