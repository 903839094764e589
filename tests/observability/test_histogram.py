"""A histogram counts what it has seen, by size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.observability import Histogram

BOUNDS = (0.1, 1.0, 10.0)


@given(values=st.lists(st.one_of(st.sampled_from([*BOUNDS, 0.0]), st.floats(-5, 50))))
def test_every_value_is_in_one_bucket_and_below_all_larger_bounds(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    seen = histogram.statistics()
    assert seen.num_values == len(values)
    assert math.isclose(seen.total, math.fsum(values), abs_tol=1e-9)
    assert seen.cumulative == [(bound, sum(value <= bound for value in values)) for bound in (*BOUNDS, math.inf)]


def test_what_was_read_does_not_change_any_more() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(0.5)
    seen = histogram.statistics()
    histogram.observe(0.5)
    assert seen.counts == (0, 1, 0, 0)
    with pytest.raises(AttributeError):
        seen.total = 1.0  # type: ignore[misc]
