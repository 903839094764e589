"""How long the steps of a worker's engine take, learned from its heartbeats: pure."""

from __future__ import annotations

from typing import NamedTuple

from parrot_mq.messages import EngineReport

__all__ = ["PRIOR", "StepTimeModel", "StepTimes"]


class StepTimes(NamedTuple):
    """What a step costs: `base_s + read_s * tokens read + prefill_s * tokens of prompts`.

    Attributes:
        base_s: Seconds that any step takes.
        read_s: Seconds for each token whose keys and values attention reads.
        prefill_s: Seconds for each token of a prompt.
    """

    base_s: float
    read_s: float
    prefill_s: float

    def step_s(self, num_read: float) -> float:
        """Seconds of a step that generates one token for everyone."""
        return self.base_s + self.read_s * num_read

    def max_read(self, step_s: float) -> float:
        """Most tokens read in a step that ends within `step_s`; 0 if none does."""
        return max(0.0, (step_s - self.base_s) / self.read_s)


PRIOR = StepTimes(base_s=16e-3, read_s=1e-6, prefill_s=1.5e-4)
"""What is assumed of an engine before it was seen: a 7B to 13B model on one A100.

Source: Parrot, OSDI'24, its artifact: `15.9 ms + 1.76 us * resident tokens` (13B), 5,107 tokens in 0.715 s (7B).
"""

_FORGETTING = 0.9
"""Weight of a report after the next one: about the last ten count."""
_PRIOR_WEIGHT = 1e-3
"""Of the prior, in relation to the reports: it counts where these leave open what costs how much."""
_NOTHING = 1e-9
"""Weight of what no report has told of."""
_NUM_SWEEPS = 30
_FLOOR = 1e-4
"""No coefficient falls below this part of its prior, so that nothing is ever free."""


class StepTimeModel:
    """Fits `StepTimes` to the reports of one engine: least squares of relative errors, with exponential forgetting.

    A report says what all steps since the last one took together, which is linear in what they did together.
    """

    def __init__(self, prior: StepTimes = PRIOR) -> None:
        self._prior = prior
        self._last: EngineReport | None = None
        self._products = [[0.0] * 3 for _ in range(3)]  # of what was done, in seconds by the prior, per second taken
        self._sums = [0.0] * 3
        self.times = prior
        """What is known now."""

    def learn(self, report: EngineReport) -> None:
        """Take in the next report; an engine that began anew begins anew here, but for what is known of its speed."""
        last, self._last = self._last, report
        if last is None or report.num_steps <= last.num_steps:
            return
        took_s = report.step_s - last.step_s
        num_output = report.num_output_tokens - last.num_output_tokens
        num_prefill = report.num_computed_tokens - last.num_computed_tokens - num_output
        done = (report.num_steps - last.num_steps, report.num_read_tokens - last.num_read_tokens, max(0, num_prefill))
        if took_s > 0:
            self._observe([each * prior / took_s for each, prior in zip(done, self._prior, strict=True)])
            self._fit()

    def _observe(self, row: list[float]) -> None:
        """One report: the coefficients, as multiples of the prior, are to give 1 for it."""
        for i in range(3):
            self._sums[i] = _FORGETTING * self._sums[i] + row[i]
            for j in range(3):
                self._products[i][j] = _FORGETTING * self._products[i][j] + row[i] * row[j]

    def _fit(self) -> None:
        """Coordinate descent from where it was; the coefficients stay above 0."""
        factors = [each / prior for each, prior in zip(self.times, self._prior, strict=True)]
        # The prior wants all factors equal, and not 1: how fast the whole machine is, one report tells.
        for _ in range(_NUM_SWEEPS):
            for i in range(3):
                others = sum(self._products[i][j] * factors[j] for j in range(3) if j != i)
                usual = sum(factors[j] for j in range(3) if j != i) / 2
                pull = _PRIOR_WEIGHT * self._products[i][i] + _NOTHING
                factors[i] = max(_FLOOR, (self._sums[i] - others + pull * usual) / (self._products[i][i] + pull))
        self.times = StepTimes(*(factor * prior for factor, prior in zip(factors, self._prior, strict=True)))
