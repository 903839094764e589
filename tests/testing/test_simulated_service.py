"""A service without servers and models: what a user's test sees of it, and what its workers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from parrot_mq import Input, Output, semantic_function
from parrot_mq.actors import RemoteRef
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.errors import EngineFailure
from parrot_mq.messages import (
    STREAM_VARS,
    Assign,
    Assigned,
    Generation,
    GenerationsReturned,
    Prefill,
    PrefillAhead,
    WorkerStatus,
    actor_subject,
    decode,
    read_usage,
    variable_subject,
    worker_address,
)
from parrot_mq.program import prefix_hashes
from parrot_mq.testing import (
    LatencyModel,
    NetworkConditions,
    SimulatedService,
    SimulatedWorkerConfig,
    run_simulation,
    simulated_service,
)
from parrot_mq.types import Sampling

STEP_S = 0.05
SLOW = LatencyModel(base_s=STEP_S)


@semantic_function
def shout(text: Input, loud: Output = Output(max_tokens=16)) -> None:
    """Shout this: {{text}}
    {{loud}}"""


def _upper(prompt: str) -> str:
    if "FAIL" in prompt:
        raise ValueError("as told")
    return prompt.split(": ", 1)[1].strip().upper()


def _in_service(main: Callable[[SimulatedService], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def simulation() -> None:
        async with simulated_service(**settings) as service:
            await main(service)

    run_simulation(simulation)


def test_a_program_runs_and_answers_are_the_users() -> None:
    async def main(service: SimulatedService) -> None:
        async with service.client().session():
            first = shout(text="parrots")
            second = shout(text=first)
            assert await second == "PARROTS"

    _in_service(main, answer=_upper)


def test_what_an_answer_raises_fails_the_variable() -> None:
    async def main(service: SimulatedService) -> None:
        async with service.client().session():
            with pytest.raises(EngineFailure, match="ValueError: as told"):
                await shout(text="FAIL")

    _in_service(main, answer=_upper)


def test_text_follows_from_prompt_and_seed_and_streams_in_pieces() -> None:
    async def main(service: SimulatedService) -> None:
        async with service.client().session("shared"):
            variable = shout(text="parrots")
            pieces = [piece async for piece in variable.stream()]
            assert len(pieces) > 1
            assert "".join(pieces) == await variable

    _in_service(main)


def test_a_distant_client_waits_longer() -> None:
    durations = []

    async def main(service: SimulatedService) -> None:
        for delay_s in (0.0, 0.122):
            client = service.client(network=NetworkConditions(delay_s=delay_s))
            async with client.session():
                began_at = service.clock.monotonic()
                await shout(text="parrots")
                durations.append(service.clock.monotonic() - began_at)

    _in_service(main, answer=_upper, coordinator=CoordinatorConfig(settle_s=0.0))
    near_s, far_s = durations
    assert far_s - near_s == pytest.approx(0.244, rel=0.05)


def test_another_worker_goes_on_where_a_killed_one_was() -> None:
    async def main(service: SimulatedService) -> None:
        async with service.client().session() as session:
            variable = shout(text="parrots " * 8)
            await asyncio.sleep(10 * STEP_S)
            await service.workers["first"].kill()
            await service.start_worker(_config("second"), answer=_upper)
            assert await variable == ("PARROTS " * 8).strip()
            subject = variable_subject(session.tenant, session.name, variable.id)
            stored = service.server.streams[STREAM_VARS].last(subject)
            assert stored is not None
            usage = read_usage(stored.headers)
            assert usage is not None
            assert usage.attempt == 2
            engine = service.workers["second"].thing.engine
            assert 0 < engine.report().num_output_tokens < 16

    _in_service(main, answer=_upper, workers=[_config("first")])


def test_a_paused_worker_says_nothing_and_goes_on() -> None:
    async def main(service: SimulatedService) -> None:
        worker = service.workers["first"].thing
        async with service.client().session():
            variable = shout(text="parrots " * 8)
            await asyncio.sleep(4 * STEP_S)
            worker.pause()
            report = worker.engine.report()
            await asyncio.sleep(2.0)
            assert worker.engine.report() == report
            worker.resume()
            assert await variable == ("PARROTS " * 8).strip()

    _in_service(main, answer=_upper, workers=[_config("first")])


def test_candidates_take_turns() -> None:
    async def main(service: SimulatedService) -> None:
        async with service.client().session("shared"):
            assert await shout(text="one") == "ONE"
            (leader,) = [each for each in service.candidates if each.thing.leads]
            await leader.kill()
            assert await shout(text="two") == "TWO"

    _in_service(main, answer=_upper, num_candidates=2)


# -- the protocol ----------------------------------------------------------------------------------------------------


def _config(name: str) -> SimulatedWorkerConfig:
    return SimulatedWorkerConfig(worker_id=name, latency=SLOW, heartbeat_s=0.2, drain_s=0.3)


def _assign(prompt: str, *, max_tokens: int, output_ids: list[int] | None = None) -> Assign:
    generation = Generation(
        tenant="t",
        session="s",
        task="k",
        variable="v",
        attempt=1,
        prompt=[0],
        prefix_hashes=prefix_hashes([prompt]),
        sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
        deadline=float("inf"),
        output_ids=output_ids or [],
    )
    return Assign(batch="b", segments=[prompt], generations=[generation])


class _Registry:
    """Stands for a coordinator: keeps what a worker says to it."""

    def __init__(self, service: SimulatedService) -> None:
        self.bus = service.connect()
        self.said: list[WorkerStatus | GenerationsReturned] = []

    async def open(self) -> None:
        async def note(delivery: Any) -> None:
            kinds = WorkerStatus | GenerationsReturned
            self.said.append(decode(delivery.payload, kinds, delivery.headers))

        await self.bus.subscribe(actor_subject("coordinator", "registry"), note)

    @property
    def statuses(self) -> list[WorkerStatus]:
        return [each for each in self.said if isinstance(each, WorkerStatus)]

    def worker(self) -> RemoteRef:
        return RemoteRef(self.bus, worker_address("first"), answers=Assigned)

    def output_ids(self) -> list[int]:
        """What the heartbeats add up to."""
        ids: list[int] = []
        for status in self.statuses:
            for progress in status.progress:
                assert progress.begin <= len(ids)
                ids[progress.begin :] = progress.output_ids
        return ids


def test_heartbeats_carry_tokens_and_a_drained_worker_hands_over() -> None:
    async def main(service: SimulatedService) -> None:
        registry = _Registry(service)
        async with registry.bus:
            await registry.open()
            assert await registry.worker().ask(_assign("x" * 40, max_tokens=50), timeout_s=1) == Assigned()
            await asyncio.sleep(10 * STEP_S)
            await service.workers["first"].thing.drain()
            returned = registry.said[-2]
            assert isinstance(returned, GenerationsReturned)
            assert returned.keys == ["t.s.v"]
            assert [status.state for status in registry.statuses][-1] == "stopped"
            ids = registry.output_ids()
            assert len(ids) == pytest.approx(16, abs=1)  # in 10 steps and 0.3 s
            await service.start_worker(_config("first"))
            await registry.worker().ask(_assign("x" * 40, max_tokens=50, output_ids=ids), timeout_s=1)
            await asyncio.sleep(50 * STEP_S)
            assert service.workers["first"].thing.engine.report().num_output_tokens == 50 - len(ids)
            assert service.server.streams[STREAM_VARS].last(variable_subject("t", "s", "v")) is not None

    _in_service(main, workers=[_config("first")], coordinator=CoordinatorConfig(node="elsewhere"))


def test_tokens_of_another_text_are_refused() -> None:
    async def main(service: SimulatedService) -> None:
        registry = _Registry(service)
        async with registry.bus:
            await registry.worker().ask(_assign("x" * 40, max_tokens=50, output_ids=[1, 2]), timeout_s=1)
            await asyncio.sleep(STEP_S)
            stored = service.server.streams[STREAM_VARS].last(variable_subject("t", "s", "v"))
            assert stored is not None
            assert b"engine_failure" in stored.payload

    _in_service(main, workers=[_config("first")], coordinator=CoordinatorConfig(node="elsewhere"))


def test_prefills_are_computed_and_told() -> None:
    async def main(service: SimulatedService) -> None:
        registry = _Registry(service)
        async with registry.bus:
            await registry.open()
            prompt = "x" * 4_000
            prefill = Prefill(key="t.s.v", prompt=[0], prefix_hashes=prefix_hashes([prompt]))
            await registry.worker().tell(PrefillAhead(segments=[prompt], prefills=[prefill]))
            await asyncio.sleep(2)  # a heartbeat comes every second, and 1,000 tokens take 0.3 s
            assert ["t.s.v"] in [status.prefilled for status in registry.statuses]
            await registry.worker().ask(_assign(prompt, max_tokens=1), timeout_s=1)
            await asyncio.sleep(1)
            stored = service.server.streams[STREAM_VARS].last(variable_subject("t", "s", "v"))
            assert stored is not None
            usage = read_usage(stored.headers)
            assert usage is not None
            assert usage.num_prefilled_tokens == 1_000

    _in_service(main, workers=[_config("first")], coordinator=CoordinatorConfig(node="elsewhere"))
