"""The random workload of `soak.py`, for a few steps of several engines."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from parrot_workers.models import LoadedModel

from tests.workers.checkpoints import load_plain
from tests.workers.soak import Oracle, Soak

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(8))
def test_a_random_workload_loses_nothing_and_writes_what_the_oracle_writes(
    checkpoint: Callable[[str], Path], loaded: Callable[[str], LoadedModel], seed: int
) -> None:
    family = "llama" if seed % 2 else "gemma2"
    soak = Soak(loaded(family), Oracle(loaded(family), load_plain(checkpoint(family))), random.Random(seed))
    for _ in range(40):
        soak.step()
    soak.finish()
    assert soak.num_checked > 0
