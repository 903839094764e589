"""How long generations take, from their assignment to each token and to the end, and how they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from parrot_mq.observability import Distribution, Histogram

__all__ = ["GenerationTimes", "TimesStatistics"]

# Bounds as OpenTelemetry advises them for these metrics.
# Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
OUTPUT_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimesStatistics:
    """How long generations took, in seconds.

    Attributes:
        first_token: From the assignment to the first text.
        output_token: Each token after the first: a mean over the generation.
        duration: From the assignment to the end, by the code of the error; an empty one if there was none.
        num_failed: Generations that ended with an error, or were given back or cancelled, by its code.
    """

    first_token: Distribution
    output_token: Distribution
    duration: Mapping[str, Distribution]
    num_failed: Mapping[str, int]


@dataclass(slots=True)
class _Open:
    accepted_at: float
    first_at: float | None = None


class GenerationTimes:
    """Takes the times of generations that are under way. All times are monotonic seconds; unknown keys are ignored."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._first_token = Histogram(FIRST_TOKEN_S)
        self._output_token = Histogram(OUTPUT_TOKEN_S)
        self._duration: dict[str, Histogram] = {"": Histogram(DURATION_S)}
        self._num_failed = Counter[str]()

    def accept(self, key: str, *, now: float) -> None:
        """A generation was assigned."""
        self._open[key] = _Open(now)

    def begin(self, key: str, *, now: float) -> None:
        """There is text of it; only the first one counts."""
        started = self._open.get(key)
        if started is not None and started.first_at is None:
            started.first_at = now
            self._first_token.observe(now - started.accepted_at)

    def finish(self, key: str, *, num_output_tokens: int, now: float) -> None:
        """It is complete."""
        self.begin(key, now=now)  # an empty text has no piece
        started = self._open.pop(key, None)
        if started is None or started.first_at is None:
            return
        self._duration[""].observe(now - started.accepted_at)
        if num_output_tokens > 1:
            self._output_token.observe((now - started.first_at) / (num_output_tokens - 1))

    def fail(self, key: str, code: str, *, now: float) -> None:
        """It ended with an error of that code."""
        started = self._open.pop(key, None)
        if started is not None:
            self._duration.setdefault(code, Histogram(DURATION_S)).observe(now - started.accepted_at)
            self._num_failed[code] += 1

    def statistics(self) -> TimesStatistics:
        """What was taken so far."""
        return TimesStatistics(
            first_token=self._first_token.statistics(),
            output_token=self._output_token.statistics(),
            duration={code: each.statistics() for code, each in self._duration.items()},
            num_failed=dict(self._num_failed),
        )
