"""Time that jumps, an order that a seed decides, and what is said when nothing can happen any more."""

from __future__ import annotations

import asyncio
import time

import pytest

from parrot_mq.testing import (
    SimulatedClock,
    SimulationDeadlock,
    SimulationStuck,
    SimulationTimeout,
    run_simulation,
    virtual_time,
)
from parrot_mq.types import fresh_id


def test_sleeping_costs_nothing() -> None:
    async def main() -> float:
        clock = SimulatedClock()
        before = clock.now()
        await clock.sleep(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1800):
                await asyncio.Event().wait()
        return clock.now() - before

    began_at = time.monotonic()
    assert run_simulation(main) == pytest.approx(5400)
    assert time.monotonic() - began_at < 5


async def _order() -> list[int]:
    order: list[int] = []

    async def note(number: int) -> None:
        for _ in range(3):
            order.append(number)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(note(number))
    return order


def test_the_seed_decides_the_order_of_tasks() -> None:
    orders = [tuple(run_simulation(_order, seed=seed)) for seed in range(10)]
    assert orders == [tuple(run_simulation(_order, seed=seed)) for seed in range(10)]
    assert len(set(orders)) > 5
    assert run_simulation(_order, seed=None) == [0, 1, 2, 3, 4] * 3


def test_plain_callbacks_keep_their_order() -> None:
    async def main() -> list[int]:
        order: list[int] = []
        for number in range(20):
            asyncio.get_running_loop().call_soon(order.append, number)
        await asyncio.sleep(1)
        return order

    assert run_simulation(main, seed=1) == list(range(20))


def test_ids_come_from_the_seed() -> None:
    async def main() -> list[str]:
        return [fresh_id("a"), fresh_id("a")]

    first, again, other = (run_simulation(main, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({*first, *other, fresh_id("a")}) == 5


def test_a_deadlock_says_who_waits_where() -> None:
    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_nothing(), name="poor-soul")

    with pytest.raises(SimulationDeadlock, match=r"poor-soul: Event\.wait") as raised:
        run_simulation(main, seed=7)
    assert raised.value.__notes__ == ["in a simulation with seed 7"]


def test_time_is_limited() -> None:
    ended = []

    async def main() -> None:
        try:
            while True:
                await SimulatedClock().sleep(1)
        finally:
            await asyncio.sleep(60)  # who cleans up has all the time
            ended.append(True)

    with pytest.raises(SimulationTimeout, match="not done after 100 simulated seconds"):
        run_simulation(main, limit_s=100)
    assert ended


def test_time_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "_MAX_TURNS", 1000)

    async def main() -> None:
        while True:
            await SimulatedClock().sleep(0)

    with pytest.raises(SimulationStuck):
        run_simulation(main)


def test_no_timer_runs_before_its_time() -> None:
    async def main() -> None:
        clock = SimulatedClock()
        await clock.sleep(1 / 3)
        due = clock.monotonic() + 1e-10
        while clock.monotonic() < due:
            await clock.sleep(due - clock.monotonic())

    run_simulation(main)


def test_threads_work_and_time_waits_for_them() -> None:
    async def main() -> tuple[int, float]:
        clock = SimulatedClock()

        def work() -> int:
            time.sleep(0.01)
            return 7

        async with asyncio.timeout(0.001):
            result = await asyncio.to_thread(work)
        return result, clock.monotonic()

    assert run_simulation(main) == (7, 0.0)


def test_errors_of_the_program_come_out() -> None:
    async def main() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as raised:
        run_simulation(main, seed=3)
    assert raised.value.__notes__ == ["in a simulation with seed 3"]
