"""The whole way of a pin: from a task that waits, by the coordinator, into the cache of a real engine."""

from __future__ import annotations

from parrot_mq.messages import EngineReport
from parrot_mq.types import Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.programs import Program, ref
from tests.coordinator.service import eventually
from tests.workers.worker_bench import open_tiny

__all__ = ["_short_logs"]

SYSTEM = "Records of mountains follow here. Each has a height, a name, and a place where it stands. " * 3
SHORT = Sampling(max_tokens=2)


async def _engine(run: Program) -> EngineReport:
    (status,) = (await run.service.report()).workers
    return status.engine or EngineReport()


async def _num_shared(run: Program, variable: str) -> int:
    """How much of the prompt of a generation was not computed again."""
    await run.get(variable)
    await eventually(lambda: "finished" in run.service.kinds(variable))
    (event,) = [e for e in run.service.events if (e.kind, e.variable) == ("finished", variable)]
    return event.num_shared_tokens


async def test_what_a_waiting_task_needs_outlives_what_nobody_needs() -> None:
    async with open_tiny(num_slots=1, cache_tokens=1024) as run:
        for name, text in (("first", "one"), ("waiting", ref("user"))):
            await run.run("{{system}}{{x}}{{out}}", reads={"system": SYSTEM, "x": text}, writes=name, sampling=SHORT)
        await run.get("first")

        async def is_pinned() -> bool:
            return (await _engine(run)).num_pinned_pages > 0

        await eventually(is_pinned)
        for number in range(8):
            other = f"Number {number} is about something else and just as long as the other one. " * 4
            await run.run("{{x}}{{out}}", reads={"x": other}, writes=f"v{number}", sampling=SHORT)
            await run.get(f"v{number}")
        assert (await _engine(run)).num_evicted_pages > 0
        await run.set("user", "two")
        page_size = (await _engine(run)).page_size
        num_shared = await _num_shared(run, "waiting")
        assert num_shared >= 10 * page_size

        async def is_unpinned() -> bool:
            return (await _engine(run)).num_pinned_pages == 0

        await eventually(is_unpinned)
