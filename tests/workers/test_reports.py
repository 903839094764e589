"""What a worker publishes of a generation."""

from __future__ import annotations

from parrot_workers.engine.base import Delta
from parrot_workers.reports import Reports
from parrot_workers.spans import Spans

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer
from parrot_mq.clock import SystemClock
from parrot_mq.messages import Generation, TokenDelta, decode, stream_subject
from parrot_mq.types import Sampling, TokenLogprob
from tests.coordinator.service import eventually


async def test_a_delta_carries_the_log_probabilities_of_its_tokens(memory_server: MemoryServer) -> None:
    generation = Generation(
        tenant="t",
        session="s",
        task="k",
        variable="v",
        attempt=2,
        prompt=[0],
        prefix_hashes=["00"],
        sampling=Sampling(logprobs=1),
        deadline=0.0,
    )
    told = TokenLogprob(7, -0.5, ((7, -0.5),))
    found: list[TokenDelta] = []

    async def keep(delivery: Delivery) -> None:
        found.append(decode(delivery.payload, TokenDelta, delivery.headers))

    async with MemoryBus(memory_server) as bus:
        subscription = await bus.subscribe(stream_subject("t", "s", "v"), keep)
        reports = Reports(bus, "w", SystemClock(), Spans("w", "m"))
        await reports.delta(generation, Delta("t.s.v", "ab", 3, (told,)))
        await reports.delta(generation, Delta("t.s.v", "c", 5))
        await eventually(lambda: len(found) == 2, within_s=5)
        await subscription.aclose()
    assert found == [
        TokenDelta(attempt=2, offset=3, text="ab", logprobs=[told]),
        TokenDelta(attempt=2, offset=5, text="c"),
    ]
