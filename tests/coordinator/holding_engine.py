"""An engine that keeps chosen prompts until it is told to go on, or breaks when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from parrot_workers.engine import Engine, EngineEvent, EngineStatistics, Failed, GenerationRequest, PrefillRequest

from parrot_mq.errors import TaskCancelled

__all__ = ["Gate", "HoldingEngine"]


class Gate:
    """What a test tells the engines, and learns of them. Thread: any."""

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self.breaks: int = 0
        """How many of the next steps with work raise."""
        self.held: list[str] = []
        """Keys that were held, each time they came."""
        self.cancelled: list[str] = []
        """Keys that were cancelled while they were held."""

    @property
    def is_open(self) -> bool:
        return self._is_open.is_set()

    def open(self) -> None:
        """Let what is held go on, and what comes go through."""
        self._is_open.set()

    def num_held(self, key: str) -> int:
        """How often something that ends with `key` has come and was held."""
        return sum(held.endswith(f".{key}") for held in self.held)

    def was_cancelled(self, key: str) -> bool:
        """Whether something that ends with `key` was cancelled while it was held."""
        return any(cancelled.endswith(f".{key}") for cancelled in self.cancelled)


class HoldingEngine:
    """Passes everything to another engine, but keeps prompts with HOLD in them while the gate is closed."""

    def __init__(self, inner: Engine, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self._held: dict[str, GenerationRequest] = {}
        self._cancelled: list[EngineEvent] = []

    @property
    def num_slots(self) -> int:
        return self._inner.num_slots

    @property
    def max_context_tokens(self) -> int:
        return self._inner.max_context_tokens

    @property
    def has_work(self) -> bool:
        return bool(self._inner.has_work or self._held or self._cancelled)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        held = [] if self._gate.is_open else [request for request in requests if "HOLD" in request.text]
        self._held.update((request.key, request) for request in held)
        self._gate.held += [request.key for request in held]
        self._inner.submit([request for request in requests if request.key not in self._held])

    def cancel(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for key in keys:
            if self._held.pop(key, None) is not None:
                self._cancelled.append(Failed(key, TaskCancelled(task=key)))
                self._gate.cancelled.append(key)
        self._inner.cancel(keys)

    def pin(self, names: Iterable[str]) -> None:
        self._inner.pin(names)

    def prefill(self, requests: Sequence[PrefillRequest]) -> None:
        self._inner.prefill(requests)

    def check_integrity(self) -> None:
        self._inner.check_integrity()

    def step(self) -> list[EngineEvent]:
        if self._gate.breaks:
            self._gate.breaks -= 1
            raise RuntimeError("the engine broke")
        if self._gate.is_open and self._held:
            self._inner.submit(list(self._held.values()))
            self._held.clear()
        elif self._held and not self._inner.has_work:
            time.sleep(0.001)
        cancelled, self._cancelled = self._cancelled, []
        return [*cancelled, *self._inner.step()]

    def statistics(self) -> EngineStatistics:
        return self._inner.statistics()
