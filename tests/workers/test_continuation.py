"""The whole way of an output whose worker is lost: its tokens, by the coordinator, to a worker that goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import create_engine
from parrot_workers.tiny_model import checkpoint_path

from parrot_mq.messages import EngineReport
from parrot_mq.types import Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.programs import program
from tests.coordinator.service import FAST, eventually, running_service
from tests.workers.stepped_engine import SteppedEngine

__all__ = ["_short_logs"]

pytestmark = pytest.mark.slow

PROMPT = "It was a dark and stormy night, and the parrot said:\n{{out}}"
NUM_TOKENS = 40


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_an_output_outlives_its_worker(is_killed: bool, temperature: float) -> None:
    make = partial(create_engine, WorkerConfig(model_path=checkpoint_path(), num_slots=2))
    sampling = Sampling(max_tokens=NUM_TOKENS, ignore_eos=True, temperature=temperature, seed=3)
    async with running_service(replace(FAST, lease_s=2.0), workers=()) as service, program(service) as run:
        first = SteppedEngine(make())
        first.allow(20)
        lost = await service.add_worker(name="first", engine=lambda: first, model="tiny", num_slots=2)
        await run.run(PROMPT, writes="whole", sampling=sampling)
        await eventually(lambda: "started" in service.kinds("whole"))

        async def has_written() -> bool:
            (status,) = (await service.report()).workers
            return (status.engine or EngineReport()).num_output_tokens >= 20

        await eventually(has_written)
        await service.add_worker(name="second", engine=make, model="tiny", num_slots=2)
        await (lost.kill() if is_killed else lost.stop())
        text = await run.get("whole")
        assert [event.worker for event in service.events if event.kind == "started"] == ["first", "second"]
        assert [event.decision for event in service.events if event.kind == "assigned"][-1] == "continued"
        num_computed = 0

        async def is_done() -> bool:
            nonlocal num_computed
            (engine,) = [each.engine for each in (await service.report()).workers if each.worker == "second"]
            num_computed = engine.num_output_tokens if engine else 0
            return num_computed > 0 and engine is not None and not engine.num_running

        await eventually(is_done)
        assert NUM_TOKENS - 20 <= num_computed < NUM_TOKENS
        await run.run(PROMPT, writes="again", sampling=sampling)
        assert await run.get("again") == text
