"""Random numbers that are a function of (seed, position): the same on every worker, in every batch and attempt."""

from __future__ import annotations

__all__ = ["uniform"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the step of SplitMix64


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits.

    It is draw number `position` of a SplitMix64 generator that starts at the mixed seed; any draw is computed directly.

    Args:
        seed: Any integer; its low 64 bits count.
        position: Index of the output token, from 0.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators (OOPSLA 2014), figure 16.
    """
    return (_mix(_mix((seed + _GAMMA) & _MASK) + _GAMMA * (position + 1)) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    """Scramble 64 bits, one to one."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
