"""Prompts that a worker is told of before they come, and what it makes of an assignment's objective and salt."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import GenerationRequest, create_engine
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.worker import Drain

from parrot_mq.bus import MemoryBus
from parrot_mq.messages import BlobRef, EngineReport, Prefill, PrefillAhead
from parrot_mq.types import Objective, Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.service import answer, eventually, expected, make_engine
from tests.workers.stepped_engine import SteppedEngine
from tests.workers.worker_bench import Bench, fresh_server, generation, open_bench

__all__ = ["_short_logs"]

TEXT = "What is known of the prompt. " * 3


def _ahead(*segments: str | BlobRef, variables: tuple[str, ...] = ("v0",), salt: str = "") -> PrefillAhead:
    """Each of the variables' prompts begins with all of the segments."""
    indices = list(range(len(segments)))
    hashes = [f"hash-{index}" for index in indices]
    prefills = [Prefill(key=f"t.s.{each}", prompt=indices, prefix_hashes=hashes, salt=salt) for each in variables]
    return PrefillAhead(segments=list(segments), prefills=prefills)


def _prefilled(bench: Bench) -> list[str]:
    return [key for status in bench.statuses for key in status.prefilled]


async def test_what_is_known_of_a_prompt_is_computed_before_it_comes() -> None:
    async with open_bench() as bench:
        await bench.remote.tell(_ahead("ab", "cd"))
        await eventually(lambda: _prefilled(bench) == ["t.s.v0"])
        generations = [replace(generation("v0", [0, 1, 2]), prefix_hashes=["hash-0", "hash-1", "other"])]
        await bench.assign_batch(["ab", "cd", "ef"], generations)
        assert await bench.value("v0") == expected("abcdef")
        await eventually(lambda: [event.kind for event in bench.events] == ["started", "finished"])
        counts = [(each.num_prompt_tokens, each.num_shared_tokens, each.num_prefilled_tokens) for each in bench.events]
        assert counts == [(6, 4, 4)] * 2
        await bench.wait_idle()
        assert (bench.statuses[-1].engine or EngineReport()).num_prefilled_tokens == 4
        assert _prefilled(bench) == ["t.s.v0"], "it is told once"


async def test_a_model_reads_ahead_too() -> None:
    config = WorkerConfig(model_path=checkpoint_path(), num_slots=2)
    async with open_bench(lambda: create_engine(config)) as bench:
        await bench.remote.tell(_ahead(TEXT))
        await eventually(lambda: _prefilled(bench) == ["t.s.v0"])
        await bench.assign(TEXT + "And the rest.", sampling=Sampling(max_tokens=2))
        await eventually(lambda: len(bench.events) == 2)
        finished = bench.events[-1]
        assert 0 < finished.num_prefilled_tokens == finished.num_shared_tokens < finished.num_prompt_tokens


async def test_only_the_newest_set_counts() -> None:
    engine = SteppedEngine(make_engine(answer))
    async with open_bench(lambda: engine) as bench:
        await bench.remote.tell(_ahead("first", variables=("v0", "v1")))
        await bench.remote.tell(_ahead("second", variables=("v2",)))
        await bench.remote.tell(_ahead("third", variables=("v3",)))
        engine.allow(10)
        await eventually(lambda: "t.s.v3" in _prefilled(bench))
        await bench.assign("x", first=9)
        await bench.value("v9")
        assert "t.s.v2" not in _prefilled(bench) or _prefilled(bench)[-1] == "t.s.v3"


class _CountingBus(MemoryBus):
    """Counts the blobs that are read."""

    num_blob_reads = 0

    async def get_blob(self, tenant: str, digest: str) -> bytes:
        self.num_blob_reads += 1
        return await super().get_blob(tenant, digest)


async def test_a_large_text_is_fetched_once_however_often_it_is_named() -> None:
    bus = _CountingBus(fresh_server())
    async with open_bench(bus=bus) as bench:
        digest = await bench.bus.put_blob("t", TEXT.encode())
        large = BlobRef(digest=digest, size_bytes=len(TEXT))
        await bench.remote.tell(_ahead(large, variables=("v0", "v1")))
        await eventually(lambda: len(_prefilled(bench)) == 2)
        await bench.remote.tell(_ahead(large, "more", variables=("v2",)))
        await eventually(lambda: len(_prefilled(bench)) == 3)
        assert bus.num_blob_reads == 1


async def test_a_prompt_that_cannot_be_read_is_left_out() -> None:
    missing = BlobRef(digest="0" * 64, size_bytes=5)
    async with open_bench() as bench:
        ahead = _ahead("fine", missing)
        wrong = [replace(ahead.prefills[0], key="t.s.v1", prompt=[7]), replace(ahead.prefills[0], key="t.s.v2")]
        right = replace(ahead.prefills[0], key="t.s.v3", prompt=[0])
        await bench.remote.tell(replace(ahead, prefills=[*wrong, right]))
        await eventually(lambda: _prefilled(bench) == ["t.s.v3"])
        assert bench.states == ["loading", "ready"]


async def test_a_worker_that_stops_computes_nothing_ahead() -> None:
    engine = SteppedEngine(make_engine(answer))
    async with open_bench(lambda: engine, drain_s=20) as bench:
        await bench.assign("last", first=5)
        await bench.remote.tell(_ahead("one"))
        await bench.worker.tell(Drain())
        await eventually(lambda: bench.states[-1] == "draining")
        await bench.remote.tell(_ahead("two"))
        engine.allow(100)
        await bench.worker.wait_stopped()
        assert await bench.value("v5") == expected("last")
        assert _prefilled(bench) == []


# -- objectives and salts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "latency_tpot_ms", "target_s"),
    [
        (Objective(), 200.0, 0.2),
        (Objective(tpot_ms=50), 200.0, 0.05),
        (Objective(tpot_ms=50), 0.0, 0.05),
        (Objective(), 0.0, None),
        (Objective(kind="throughput"), 200.0, None),
        (Objective(kind="throughput", tpot_ms=50), 200.0, None),
    ],
)
async def test_who_waits_for_an_output_sets_its_pace(
    objective: Objective, latency_tpot_ms: float, target_s: float | None
) -> None:
    requests: list[GenerationRequest] = []

    def write(request: GenerationRequest) -> str:
        requests.append(request)
        return "x"

    async with open_bench(lambda: make_engine(write), latency_tpot_ms=latency_tpot_ms) as bench:
        await bench.assign("prompt", objective=objective, salt="shared", output_ids=[])
        await bench.value("v0")
        assert [(each.tpot_target_s, each.salt) for each in requests] == [(target_s, "shared")]
