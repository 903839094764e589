"""StepTimeModel: it learns what this engine's steps cost, and never promises what it does not know."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parrot_workers.engine.step_time import StepTimeModel


def _observe(model: StepTimeModel, rng: random.Random, num_steps: int, a: float, b: float, c: float) -> None:
    for _ in range(num_steps):
        rows, read = rng.randint(1, 2000), rng.randint(0, 100_000)
        noise = rng.uniform(0.98, 1.02)
        model.observe(num_rows=rows, num_read_tokens=read, duration_s=(a + b * rows + c * read) * noise)


def test_nothing_is_known_at_first() -> None:
    """Without a measured step, no step is thought to be too long."""
    model = StepTimeModel()
    assert model.predict(num_rows=1000, num_read_tokens=1000) == 0.0
    assert model.max_rows(duration_s=0.01, num_read_tokens=0) > 1e6


@given(
    a=st.floats(1e-4, 1e-1),
    b=st.floats(1e-7, 1e-3),
    c=st.floats(1e-9, 1e-6),
    seed=st.integers(0, 1000),
)
def test_the_weights_are_found(a: float, b: float, c: float, seed: int) -> None:
    model = StepTimeModel()
    _observe(model, random.Random(seed), 60, a, b, c)
    expected = a + b * 500 + c * 20_000
    assert model.predict(num_rows=500, num_read_tokens=20_000) == pytest.approx(expected, rel=0.1)


def test_a_slower_engine_is_noticed() -> None:
    model, rng = StepTimeModel(), random.Random(1)
    _observe(model, rng, 300, 0.01, 1e-5, 1e-8)
    _observe(model, rng, 300, 0.02, 2e-5, 2e-8)
    assert model.predict(num_rows=1000, num_read_tokens=0) == pytest.approx(0.04, rel=0.1)


@example(seed=390, duration_s=1.0)  # rounding once made a row seem to cost nothing
@given(seed=st.integers(0, 1000), duration_s=st.floats(1e-3, 1.0))
def test_a_step_of_max_rows_ends_in_time(seed: int, duration_s: float) -> None:
    model = StepTimeModel()
    _observe(model, random.Random(seed), 50, 0.005, 1e-4, 1e-7)
    rows = model.max_rows(duration_s=duration_s, num_read_tokens=1000)
    assert rows >= 0
    assert rows == 0 or model.predict(num_rows=rows, num_read_tokens=1000) <= duration_s * 1.001
    assert model.predict(num_rows=rows + 1, num_read_tokens=1000) >= duration_s * 0.999


def test_equal_steps_do_not_unsettle_it() -> None:
    """Decoding repeats the same step for minutes: the weights that it says nothing of must not drift."""
    model, rng = StepTimeModel(), random.Random(2)
    _observe(model, rng, 100, 0.005, 1e-4, 0.0)
    for _ in range(20_000):
        model.observe(num_rows=32, num_read_tokens=1000, duration_s=(0.005 + 32e-4) * rng.uniform(0.9, 1.1))
    assert model.predict(num_rows=32, num_read_tokens=1000) == pytest.approx(0.0082, rel=0.15)
    model.observe(num_rows=1000, num_read_tokens=1000, duration_s=0.105)
    assert model.predict(num_rows=1000, num_read_tokens=1000) == pytest.approx(0.105, rel=0.3)
