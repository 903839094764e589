"""Random numbers are a function of (seed, position), and look random along both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.random_numbers import seeds_array, uniforms

_rows = st.lists(st.tuples(st.integers(), st.integers(0, 2**31)), min_size=1, max_size=20)


def _uniforms(rows: Sequence[tuple[int, int]]) -> list[float]:
    seeds, positions = zip(*rows, strict=True)
    numbers: list[float] = uniforms(seeds_array(seeds), np.array(positions)).tolist()
    return numbers


@given(rows=_rows)
def test_a_number_is_in_the_unit_interval_and_repeatable(rows: list[tuple[int, int]]) -> None:
    numbers = _uniforms(rows)
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert _uniforms(rows) == numbers
    assert _uniforms([(seed + 2**64, position) for seed, position in rows]) == numbers


@given(rows=_rows)
def test_a_number_does_not_depend_on_its_batch(rows: list[tuple[int, int]]) -> None:
    assert [_uniforms([row])[0] for row in rows] == _uniforms(rows)


def test_known_numbers_never_change() -> None:
    """A continuation on a worker of a newer release must draw what the older one would have drawn."""
    numbers = _uniforms([(0, 0), (0, 1), (1, 0), (-1, 7)])
    assert numbers == [0.6524484863740322, 0.7012121095215252, 0.36818951565166946, 0.7238582745899125]


@pytest.mark.parametrize("along", ["seed", "position"])
def test_numbers_are_uniform_and_uncorrelated(along: str) -> None:
    """Neighbouring seeds, and neighbouring positions, are the usual case: task ids and tokens are counted."""
    numbers = _uniforms([(i, 3) if along == "seed" else (3, i) for i in range(20_000)])
    counts = [0] * 20
    for number in numbers:
        counts[int(number * 20)] += 1
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in counts)
    assert chi_squared < 43.8  # 99.9 % of 19 degrees of freedom
    assert abs(statistics.correlation(numbers[:-1], numbers[1:])) < 0.03
