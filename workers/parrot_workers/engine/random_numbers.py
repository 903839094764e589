"""Random numbers that are a function of (seed, position): the same on every worker, in every batch and attempt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["seeds_array", "uniforms"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the step of SplitMix64
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)

UInt64Array = npt.NDArray[np.uint64]


def uniforms(seeds: UInt64Array, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits, one per row.

    Each is draw number `position` of a SplitMix64 generator that starts at the mixed seed; any draw is computed
    directly.

    Args:
        seeds: As `seeds_array` gives them, shape [num_rows].
        positions: Index of the output token, from 0, shape [num_rows], int64.

    Returns:
        Shape [num_rows], float64.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators (OOPSLA 2014), figure 16.
    """
    starts = _mix(seeds + np.uint64(_GAMMA))
    steps = np.uint64(_GAMMA) * (positions.astype(np.uint64) + np.uint64(1))
    numbers: npt.NDArray[np.float64] = (_mix(starts + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def seeds_array(seeds: Sequence[int]) -> UInt64Array:
    """Seeds as `uniforms` takes them: of any integer the low 64 bits count."""
    return np.array([seed & _MASK for seed in seeds], dtype=np.uint64)


def _mix(z: UInt64Array) -> UInt64Array:
    """Scramble 64 bits, one to one. Products wrap around, as unsigned arrays do."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    return z ^ (z >> np.uint64(31))
