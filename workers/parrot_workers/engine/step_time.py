"""How long a step takes, learned from the engine's own steps."""

from __future__ import annotations

import numpy as np

__all__ = ["StepTimeModel"]

_FORGETTING = 0.98  # weight of a step after the next one: about the last 50 count
_PRIOR = 1e6  # variance of the weights before the first step: whatever is measured replaces them
_MAX_TRACE = 3 * _PRIOR * _FORGETTING
_SCALE = np.array([1.0, 1e-2, 1e-4])  # one step, 100 rows, 10,000 tokens of cache weigh alike


class StepTimeModel:
    """Predicts seconds from the size of a step: `a + b * num_rows + c * num_read_tokens`.

    A line through rows suits both ends: few rows cost what reading the weights costs (`a`), many what multiplying costs
    (`b`). The three weights follow the engine by recursive least squares with exponential forgetting.

    Source: Haykin, Adaptive Filter Theory (4th ed.), section 9.3; for the form of the update Bucy and Joseph, Filtering
    for Stochastic Processes with Applications to Guidance (1968).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._weights = np.zeros(3)
        self._covariance = np.eye(3) * _PRIOR

    def observe(self, *, num_rows: int, num_read_tokens: int, duration_s: float) -> None:
        """Learn from one step.

        Args:
            num_rows: Tokens that went through the model.
            num_read_tokens: Tokens of cache that attention read.
            duration_s: What it took.
        """
        features = _SCALE * (1.0, num_rows, num_read_tokens)
        spread = self._covariance @ features
        gain = spread / (_FORGETTING + features @ spread)
        self._weights += gain * (duration_s - features @ self._weights)
        # Joseph's form: the plain update loses what makes it a covariance to rounding, and then learns nonsense.
        rest = np.eye(3) - np.outer(gain, features)
        self._covariance = rest @ self._covariance @ rest.T + _FORGETTING * np.outer(gain, gain)
        if self._covariance.trace() < _MAX_TRACE:
            # What is not excited would grow without bound, and one odd step would then throw the weights about.
            self._covariance /= _FORGETTING

    def predict(self, *, num_rows: int, num_read_tokens: int) -> float:
        """Seconds that such a step takes; 0 before anything is known."""
        features = _SCALE * (1.0, num_rows, num_read_tokens)
        return float(features @ np.maximum(self._weights, 0.0))

    def max_rows(self, *, duration_s: float, num_read_tokens: int) -> int:
        """Most rows of a step that ends within `duration_s`; 0 if none does, a large number if rows are free."""
        rest = duration_s - self.predict(num_rows=0, num_read_tokens=num_read_tokens)
        per_row = max(self._weights[1], 0.0) * _SCALE[1]
        if rest <= 0.0:
            return 0
        return int(min(rest / per_row, 1e9)) if per_row > 0.0 else 10**9
