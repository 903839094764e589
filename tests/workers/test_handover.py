"""What a worker tells of running generations, and how another one goes on with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import Engine, create_engine
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.worker import Drain

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer
from parrot_mq.errors import PublishRejected
from parrot_mq.messages import COORDINATOR_STARTED, HEADER_BLOB, STREAM_VARS, EngineReport, GenerationsReturned
from parrot_mq.types import Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.service import answer, eventually, expected, make_engine
from tests.workers.refusing_bus import RefusingBus
from tests.workers.stepped_engine import SteppedEngine
from tests.workers.worker_bench import Bench, fresh_server, open_bench

__all__ = ["_short_logs"]

PARROTS = "\N{PARROT}" * 700
PROMPT = "It was a dark and stormy night, and the parrot said:\n"


def _stepped(num_steps: int, **settings: Any) -> tuple[SteppedEngine, Callable[[], Engine]]:
    """A scripted engine that takes so many steps, and how a worker makes it."""
    engine = SteppedEngine(make_engine(answer, **{"num_slots": 4, "tokens_per_step": 5, **settings}))
    engine.allow(num_steps)
    return engine, lambda: engine


def _ids(text: str) -> list[int]:
    return list(map(ord, text))


# -- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_tiny() -> Callable[[], Engine]:
    return partial(create_engine, WorkerConfig(model_path=checkpoint_path(), num_slots=4))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=40, ignore_eos=True),
        Sampling(max_tokens=40, ignore_eos=True, temperature=0.9, top_k=20),
        Sampling(max_tokens=40, ignore_eos=True, temperature=0.9, repetition_penalty=1.2, seed=5),
    ],
    ids=["greedy", "sampled", "seeded"],
)
async def test_when_a_worker_dies_another_goes_on_with_its_tokens(
    make_tiny: Callable[[], Engine], sampling: Sampling
) -> None:
    async with open_bench(make_tiny) as bench:
        await bench.assign(PROMPT, sampling=sampling)
        whole = await bench.value("v0")
    first = SteppedEngine(make_tiny())
    first.allow(17)
    async with open_bench(lambda: first) as bench:
        await bench.assign(PROMPT, sampling=sampling)
        await eventually(lambda: len(bench.tokens("v0")) >= 15)
        known = bench.tokens("v0")
        told = "".join(delta.text for delta in bench.deltas)
    async with open_bench(make_tiny) as bench:
        await bench.assign(PROMPT, sampling=sampling, attempt=2, output_ids=known)
        assert await bench.value("v0") == whole
        await eventually(lambda: bench.events[-1].kind == "finished")
        assert isinstance(whole, str)
        assert {delta.attempt for delta in bench.deltas} == {2}
        assert bench.deltas[0].offset <= len(told), "no reader misses a character"
        assert whole[: bench.deltas[0].offset] + "".join(delta.text for delta in bench.deltas) == whole
        assert bench.deltas[0].offset > 0
        await bench.wait_idle()
        engine = bench.statuses[-1].engine or EngineReport()
        assert engine.num_output_tokens == 40 - len(known)
        assert bench.events[-1].num_output_tokens == 40


async def test_an_output_that_was_complete_is_stored_without_another_token() -> None:
    async with open_bench() as bench:
        text = expected("prompt")
        await bench.assign("prompt", output_ids=_ids(text), sampling=Sampling(max_tokens=len(text)))
        assert await bench.value("v0") == text
        assert bench.deltas == []


# -- heartbeats ------------------------------------------------------------------------------------------------------


async def test_heartbeats_tell_what_is_new_and_now_and_then_everything() -> None:
    engine, make = _stepped(1)
    async with open_bench(make) as bench:
        await bench.assign("prompt", attempt=3)
        for num_steps in (1, 2, 3):
            await eventually(lambda num=5 * num_steps: len(bench.tokens("v0")) == num)  # type: ignore[misc]
            engine.allow(1)
        assert bench.tokens("v0") == _ids(expected("prompt"))[:15]
        told = [each for status in bench.statuses for each in status.progress]
        assert {(each.key, each.attempt, each.num_prompt_tokens) for each in told} == {("t.s.v0", 3, 6)}
        assert any(each.begin > 0 for each in told)
        num_heard = len(bench.statuses)
        await eventually(lambda: len(bench.statuses) > num_heard + 20)
        whole = [each for status in bench.statuses[num_heard:] for each in status.progress]
        assert len(whole) <= 3
        assert all((each.begin, len(each.output_ids)) in ((0, 15), (10, 5)) for each in whole)


async def test_a_coordinator_that_starts_is_told_everything() -> None:
    _, make = _stepped(2)
    async with open_bench(make, heartbeat_s=60) as bench:
        await bench.assign("prompt")
        await eventually(lambda: "".join(delta.text for delta in bench.deltas) == expected("prompt")[:10])
        for _ in range(2):
            num_heard = len(bench.statuses)
            await bench.bus.publish(COORDINATOR_STARTED, b"{}")
            await eventually(lambda num=num_heard: len(bench.statuses) > num)  # type: ignore[misc]
            (told,) = bench.statuses[-1].progress
            assert (told.begin, told.output_ids) == (0, _ids(expected("prompt")[:10]))


async def test_no_heartbeat_is_larger_than_the_server_takes() -> None:
    """What does not fit comes with the next ones."""
    engine = SteppedEngine(make_engine(lambda _: PARROTS, num_slots=4, tokens_per_step=300))
    engine.allow(2)
    sizes: list[int] = []

    async def on_status(delivery: Delivery) -> None:
        assert HEADER_BLOB not in delivery.headers
        sizes.append(len(delivery.payload))

    server = MemoryServer(max_payload=2048)
    async with open_bench(lambda: engine, bus=MemoryBus(server)) as bench:
        await bench.bus.subscribe("pmq-sys.actor.coordinator.registry", on_status)
        await bench.assign("one", "two", "three")
        await eventually(lambda: all(len(bench.tokens(f"v{number}")) == 600 for number in range(3)))
        assert bench.tokens("v1") == _ids(PARROTS[:600])
        assert 1500 < max(sizes) <= 2048


# -- handing over ----------------------------------------------------------------------------------------------------


def _known_before(bench: Bench, returned: GenerationsReturned, variable: str) -> list[int]:
    """Tokens of which the coordinator knows when something is given back."""
    return bench.tokens(variable, said=bench.said[: bench.said.index(returned)])


async def test_what_does_not_end_before_a_worker_stops_is_handed_over_with_its_tokens() -> None:
    _, make = _stepped(2)
    async with open_bench(make, heartbeat_s=60, drain_s=0.05) as bench:
        await bench.assign("one", "two")
        await eventually(lambda: len(bench.deltas) == 4)
        await bench.worker.tell(Drain())
        await bench.worker.wait_stopped()
        await eventually(lambda: bench.states[-1] == "stopped")
        (returned,) = bench.returned
        assert sorted(returned.keys) == ["t.s.v0", "t.s.v1"]
        assert _known_before(bench, returned, "v0") == _ids(expected("one")[:10])
        assert _known_before(bench, returned, "v1") == _ids(expected("two")[:10])


async def test_a_worker_that_is_stopped_at_once_tells_its_tokens_with_its_last_words() -> None:
    _, make = _stepped(2)
    async with open_bench(make, heartbeat_s=60) as bench:
        await bench.assign("prompt")
        await eventually(lambda: len(bench.deltas) == 2)
        await bench.worker.stop()
        await eventually(lambda: bench.states[-1] == "stopped")
        assert bench.tokens("v0") == _ids(expected("prompt")[:10])


async def test_a_result_that_cannot_be_stored_is_given_back_with_all_its_tokens() -> None:
    errors: list[Exception] = [PublishRejected(subject="x", err_code=10, description="no room")]
    async with open_bench(bus=RefusingBus(fresh_server(), errors), heartbeat_s=60) as bench:
        await bench.assign("prompt")
        await eventually(lambda: bool(bench.returned))
        (returned,) = bench.returned
        assert _known_before(bench, returned, "v0") == _ids(expected("prompt"))


# -- what it cost ----------------------------------------------------------------------------------------------------


async def test_a_value_says_what_it_cost() -> None:
    async with open_bench() as bench:
        await bench.assign("prompt", attempt=2, output_ids=_ids(expected("prompt")[:4]))
        await bench.value("v0")
        subject = "pmq.t.var.s.v0"
        usage = json.loads((await bench.bus.get(STREAM_VARS, [subject]))[subject].headers["Pmq-Usage"])
        assert usage["started_at"] <= usage.pop("finished_at")
        assert usage.pop("started_at") > 1.6e9
        assert usage == {"num_prompt_tokens": 6, "num_output_tokens": len(expected("prompt")), "attempt": 2}


async def test_an_error_costs_nothing() -> None:
    async with open_bench() as bench:
        await bench.assign("FAIL")
        await bench.value("v0")
        subject = "pmq.t.var.s.v0"
        assert "Pmq-Usage" not in (await bench.bus.get(STREAM_VARS, [subject]))[subject].headers
