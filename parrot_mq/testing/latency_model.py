"""How long a step of an engine takes, by what is in it: constants of known hardware."""

from __future__ import annotations

from dataclasses import dataclass

from parrot_mq.errors import ConfigurationError

__all__ = ["A100_7B", "A100_13B", "A6000_7B", "LatencyModel"]


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """A step takes `base + read * tokens read + reread * tokens read again + prefill * tokens of prompts - overlap`.

    Decoding is bound by memory: every step reads the weights (`base_s`) and the cache of all that runs (`read_s`).
    Prefill is bound by arithmetic, and both happen at once: while the weights are read (`overlap_s`), some tokens of
    prompts are computed for nothing. Without cascade attention a shared token is read once for each sequence that has
    it; all but the first time it mostly lies in the GPU's own cache, so it costs less (`reread_s`).

    Attributes:
        base_s: Seconds that any step takes.
        read_s: Seconds for each token whose keys and values are read.
        reread_s: Seconds for each further time that the same token is read in the step.
        prefill_s: Seconds for each token of a prompt (or of an output that is computed again).
        overlap_s: Of the base, seconds in which prompts are computed too.
    """

    base_s: float
    read_s: float = 0.0
    reread_s: float = 0.0
    prefill_s: float = 0.0
    overlap_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("base_s", "read_s", "reread_s", "prefill_s", "overlap_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, got {getattr(self, name)}", setting=name)
        if self.overlap_s > self.base_s:
            raise ConfigurationError(f"overlap_s is a part of base_s, got {self.overlap_s}", setting="overlap_s")

    def step_s(self, *, num_read_tokens: int, num_reread_tokens: int, num_prefill_tokens: int) -> float:
        """Seconds that one step takes."""
        return (
            self.base_s
            + self.read_s * num_read_tokens
            + self.reread_s * num_reread_tokens
            + max(0.0, self.prefill_s * num_prefill_tokens - self.overlap_s)
        )

    def max_prefill_tokens(self, *, duration_s: float, num_read_tokens: int, num_reread_tokens: int) -> int:
        """Most tokens of prompts in a step that ends within `duration_s`; 0 if none fits."""
        empty_s = self.step_s(
            num_read_tokens=num_read_tokens, num_reread_tokens=num_reread_tokens, num_prefill_tokens=0
        )
        if duration_s <= empty_s:
            return 0
        return int((duration_s - empty_s + self.overlap_s) / self.prefill_s) if self.prefill_s else 10**9


_A100_BYTES_PER_S = 2.039e12
_A6000_BYTES_PER_S = 0.768e12
_A100_FLOPS = 312e12
_A6000_FLOPS = 155e12
_WEIGHTS_7B = 6.74e9
_WEIGHTS_13B = 13.02e9

_WEIGHTS_7B_A100_S = 2 * _WEIGHTS_7B / _A100_BYTES_PER_S

A100_7B = LatencyModel(
    base_s=16.8e-3,
    read_s=0.346e-6,
    reread_s=0.14e-6,
    prefill_s=(0.715 - 16.8e-3 + _WEIGHTS_7B_A100_S - 5107 * 0.346e-6) / 5107,
    overlap_s=_WEIGHTS_7B_A100_S,
)
"""LLaMA-7B on one A100 (80 GB) in half precision.

Source: Parrot, OSDI'24, Figure 16 by its artifact: the nine times per output token with Parrot's kernel (5,107 shared
tokens, 1,060 own ones, batches of 32 and 64) are a line through tokens read, with 0.5 ms of error at most; the same
nine with PagedAttention give `reread_s` (0.12 to 0.16 us). The prefill of 5,107 tokens takes 0.715 s (section 8.3).
The weights are read at the card's bandwidth.
"""

A100_13B = LatencyModel(
    base_s=15.9e-3,
    read_s=1.76e-6,
    reread_s=1.76e-6 * A100_7B.reread_s / A100_7B.read_s,
    prefill_s=A100_7B.prefill_s * _WEIGHTS_13B / _WEIGHTS_7B,
    overlap_s=2 * _WEIGHTS_13B / _A100_BYTES_PER_S,
)
"""LLaMA-13B on one A100 (80 GB) in half precision.

Source: Parrot, OSDI'24, Figure 10 by its artifact: time per output token against resident tokens (5 requests/s). The
price of prefill follows from that of the smaller model by the number of weights.
"""

A6000_7B = LatencyModel(
    base_s=A100_7B.base_s + 2 * _WEIGHTS_7B * (1 / _A6000_BYTES_PER_S - 1 / _A100_BYTES_PER_S),
    read_s=A100_7B.read_s * _A100_BYTES_PER_S / _A6000_BYTES_PER_S,
    reread_s=A100_7B.reread_s * _A100_BYTES_PER_S / _A6000_BYTES_PER_S,
    prefill_s=A100_7B.prefill_s * _A100_FLOPS / _A6000_FLOPS,
    overlap_s=2 * _WEIGHTS_7B / _A6000_BYTES_PER_S,
)
"""LLaMA-7B on one RTX A6000 (48 GB) in half precision.

Source: `A100_7B`, by the two cards' bandwidth and half-precision arithmetic (NVIDIA's data sheets); the 28 ms of an
empty step agree with the 32 ms per token at the lowest rate of Parrot's Figure 17.
"""
