"""Whatever dies and whatever is lost: every accepted task ends exactly once, in a value or an error."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest

from parrot_mq.bus import Delivery
from parrot_mq.testing import run_simulation
from tests.simulation.checks import checked_structures
from tests.simulation.world import open_world

pytestmark = pytest.mark.slow

NUM_SEEDS = 120


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_every_task_ends_once(seed: int) -> None:
    """Workers and coordinators die, links are cut, messages are lost and doubled, tasks are cancelled and too late."""
    happened: list[str] = []

    async def main() -> None:
        async with open_world(seed) as world:
            world.happened = happened
            await world.run()

    with checked_structures() as faults:
        try:
            run_simulation(main, seed=seed, limit_s=1_000)
            assert not faults, "something is wrong, though every task has ended"
        except BaseException as error:
            for note in ["what happened:", *happened, *faults[:2]]:
                error.add_note(note)
            hash_seed = os.environ.get("PYTHONHASHSEED", "random")  # the order of sets is part of what happens
            error.add_note(
                f"run it alone: PYTHONHASHSEED={hash_seed} pytest '{__file__}::test_every_task_ends_once[{seed}]'"
            )
            raise


@pytest.mark.parametrize("seed", [3, 17])
def test_a_seed_repeats_itself(seed: int) -> None:
    """Whoever runs a failing seed alone sees it fail in the same way."""
    traces: list[list[str]] = []

    async def main() -> None:
        async with open_world(seed) as world:
            server, trace = world.service.server, traces[-1]
            route = server.route

            def note(message: Delivery) -> int:
                trace.append(f"{world.service.clock.monotonic()} {message.subject} {message.payload!r}")
                return route(message)

            with patch.object(server, "route", note):
                await world.run()

    for _ in range(2):
        traces.append([])
        run_simulation(main, seed=seed, limit_s=1_000)
    assert len(traces[0]) > 100
    assert traces[0] == traces[1]
