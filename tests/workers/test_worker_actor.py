"""The worker as a coordinator sees it: what it says, what it takes, what it stores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import fields

import pytest
from msgspec.structs import replace
from parrot_workers.bridge import EngineFactory
from parrot_workers.engine import Engine, EngineStatistics, GenerationRequest
from parrot_workers.worker import Drain
from structlog.testing import capture_logs

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer, set_variable
from parrot_mq.errors import CapacityExhausted, ContextLengthExceeded, EngineFailure, PublishRejected, RequestTimeout
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    STREAM_BLOBS,
    STREAM_VARS,
    Assigned,
    BlobRef,
    CancelGenerations,
    EngineReport,
    ErrorInfo,
    LoadProgress,
    PinPrefixes,
    StandBy,
    Value,
    WorkerStatus,
    decode,
)
from parrot_mq.types import Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.holding_engine import Gate, HoldingEngine
from tests.coordinator.service import answer, eventually, expected, make_engine
from tests.workers.refusing_bus import RefusingBus
from tests.workers.worker_bench import address_of, fresh_server, generation, open_bench

__all__ = ["_short_logs"]


# -- what it says ----------------------------------------------------------------------------------------------------


async def test_it_says_who_it_is_again_and_again() -> None:
    async with open_bench(model_name="parrot-1") as bench:
        await eventually(lambda: len(bench.statuses) > 4)
        status = bench.statuses[-1]
        assert (status.worker, status.model, status.state, status.num_slots) == ("w1", "parrot-1", "ready", 4)
        assert status.max_context_tokens == 1_000_000_000


async def test_while_it_loads_it_says_how_far_it_is() -> None:
    may_load = threading.Event()

    def load(report: Callable[[str, float], None]) -> Engine:
        report("reading weights", 0.25)
        may_load.wait(10)
        return make_engine(answer)

    async with asyncio.TaskGroup() as group:
        server = MemoryServer()
        server.ensure_streams()
        heard: list[WorkerStatus] = []
        async with MemoryBus(server) as listener:

            async def on_status(delivery: Delivery) -> None:
                heard.append(decode(delivery.payload, WorkerStatus))

            await listener.subscribe("pmq-sys.actor.coordinator.registry", on_status)
            with capture_logs() as logs:
                running = group.create_task(_run_until_ready(server, load=load))
                await eventually(lambda: len(heard) > 2)
                assert {status.state for status in heard} == {"loading"}
                assert heard[-1].loading == LoadProgress(stage="reading weights", fraction=0.25)
                assert heard[-1].engine is None
                may_load.set()
                await running
            assert {status.state: status.loading for status in heard}["ready"] is None
    events = [(log["event"], log.get("stage")) for log in logs if log["event"].startswith("engine_")]
    assert events == [("engine_loading", "reading weights"), ("engine_loaded", None)]


async def test_once_it_is_ready_it_says_what_its_engine_does() -> None:
    async with open_bench() as bench:
        await bench.assign("prompt")
        await bench.value("v0")
        await eventually(lambda: _engine(bench.statuses[-1]).num_output_tokens == 16)
        engine = _engine(bench.statuses[-1])
        assert (engine.num_prompt_tokens, engine.num_steps, engine.num_running) == (6, 4, 0)
        assert engine.num_free_pages + engine.num_cached_pages == engine.num_pages > 0


def _engine(status: WorkerStatus) -> EngineReport:
    return status.engine or EngineReport()


def test_what_an_engine_counts_is_what_a_heartbeat_tells() -> None:
    assert EngineReport.__struct_fields__ == tuple(field.name for field in fields(EngineStatistics))


async def test_the_engine_is_told_what_to_keep() -> None:
    async with open_bench(lambda: make_engine(answer, num_pages=4, page_size=16)) as bench:
        generations = [replace(generation("v0", [0]), prefix_hashes=["kept"])]
        await bench.assign_batch(["x" * 32], generations)
        await bench.value("v0")
        await bench.remote.tell(PinPrefixes(hashes=["kept", "not known"]))
        await eventually(lambda: _engine(bench.statuses[-1]).num_pinned_pages == 2)
        await bench.remote.tell(PinPrefixes(hashes=[]))
        await eventually(lambda: _engine(bench.statuses[-1]).num_pinned_pages == 0)


async def _run_until_ready(
    server: MemoryServer, factory: Callable[[], Engine] | None = None, load: EngineFactory | None = None
) -> None:
    async with open_bench(factory, load=load, bus=MemoryBus(server)) as bench:
        await eventually(lambda: "ready" in bench.states)


async def test_it_answers_at_once_when_a_coordinator_starts() -> None:
    async with open_bench(heartbeat_s=60) as bench:
        await eventually(lambda: bool(bench.statuses))
        num_said = len(bench.statuses)
        await bench.bus.publish(COORDINATOR_STARTED, b"{}")
        await eventually(lambda: len(bench.statuses) > num_said)


async def test_it_says_what_it_runs_and_no_longer_once_the_value_is_stored() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate)) as bench:
        await bench.assign("HOLD 1", "HOLD 2")
        await eventually(lambda: set(bench.statuses[-1].running) == {"t.s.v0", "t.s.v1"})
        gate.open()
        await bench.value("v0")
        await bench.wait_idle()
        assert bench.num_stored == {"v0": 1, "v1": 1}


async def test_a_model_that_cannot_be_loaded_is_an_error_of_the_start() -> None:
    def load() -> Engine:
        raise EngineFailure(cause="no such model")

    with pytest.raises(EngineFailure, match="no such model"):
        await _run_until_ready(MemoryServer(), load)


async def test_when_it_stops_it_says_so_last() -> None:
    async with open_bench() as bench:
        await eventually(lambda: bench.states == ["loading", "ready"])
        await bench.worker.stop()
        await eventually(lambda: bench.states[-1] == "stopped")


# -- what it runs ----------------------------------------------------------------------------------------------------


async def test_a_generation_becomes_deltas_a_value_and_events() -> None:
    async with open_bench() as bench:
        assert await bench.assign("prompt", attempt=3) == Assigned()
        assert await bench.value("v0") == expected("prompt")
        await eventually(lambda: [event.kind for event in bench.events] == ["started", "finished"])
        assert "".join(delta.text for delta in bench.deltas) == expected("prompt")
        assert [delta.offset for delta in bench.deltas] == [0, 5, 10, 15]
        assert {delta.attempt for delta in bench.deltas} == {3}
        finished = bench.events[-1]
        assert (finished.worker, finished.task, finished.variable) == ("w1", "k", "v0")
        assert (finished.num_prompt_tokens, finished.num_output_tokens) == (6, 16)


async def test_the_value_names_its_producer() -> None:
    async with open_bench() as bench:
        await bench.assign("prompt", "FAIL")
        for variable in ("v0", "v1"):
            await bench.value(variable)
            stored = await bench.bus.get(STREAM_VARS, [f"pmq.t.var.s.{variable}"])
            assert stored[f"pmq.t.var.s.{variable}"].headers["Pmq-Producer"] == "w1"


async def test_a_prompt_is_its_segments_joined() -> None:
    async with open_bench() as bench:
        generations = [generation("v0", [0, 1, 0, 2]), generation("v1", [2]), generation("v2", [])]
        await bench.assign_batch(["a", "b", ""], generations)
        assert await bench.value("v0") == expected("aba")
        assert await bench.value("v1") == await bench.value("v2") == expected("")


async def test_a_request_knows_its_boundaries_and_whose_it_is() -> None:
    requests: list[GenerationRequest] = []

    def write(request: GenerationRequest) -> str:
        requests.append(request)
        return "x"

    async with open_bench(lambda: make_engine(write)) as bench:
        digest = await bench.bus.put_blob("t", "größe".encode())
        segments: list[str | BlobRef] = ["ab", "", BlobRef(digest=digest, size_bytes=7)]
        await bench.assign_batch(segments, [generation("v0", [0, 1, 2, 0])])
        await bench.value("v0")
        (request,) = requests
        assert (request.text, request.prefix_ends) == ("abgrößeab", (2, 2, 7, 9)), "in characters, not bytes"
        assert len(request.prefix_hashes) == len(request.prefix_ends)
        assert request.salt == "t"


async def test_a_large_segment_is_fetched_once_for_the_whole_batch() -> None:
    text = "x" * 500_000
    async with open_bench(bus=_CountingBus(fresh_server())) as bench:
        digest = await bench.bus.put_blob("t", text.encode())
        segments: list[str | BlobRef] = [BlobRef(digest=digest, size_bytes=len(text)), "tail"]
        await bench.assign_batch(segments, [generation(f"v{number}", [0, 1]) for number in range(5)])
        for number in range(5):
            assert await bench.value(f"v{number}") == expected(text + "tail")
        assert _CountingBus.num_blob_reads == 1


class _CountingBus(MemoryBus):
    """Counts the blobs that are read."""

    num_blob_reads = 0

    async def get_blob(self, tenant: str, digest: str) -> bytes:
        type(self).num_blob_reads += 1
        return await super().get_blob(tenant, digest)


async def test_the_seed_is_the_same_at_every_attempt_and_the_callers_if_there_is_one() -> None:
    seeds: dict[str, list[int]] = {}

    def write(request: GenerationRequest) -> str:
        seeds.setdefault(request.text, []).append(request.seed)
        return "x"

    async with open_bench(lambda: make_engine(write)) as bench:
        await bench.assign("a", attempt=1)
        await bench.wait_idle()
        await bench.assign("a", attempt=2)
        await bench.wait_idle()
        await bench.assign("b", first=1)
        await bench.assign("c", first=2, sampling=Sampling(seed=7))
        await eventually(lambda: len(seeds) == 3)
        assert len(set(seeds["a"])) == 1
        assert seeds["a"] != seeds["b"]
        assert seeds["c"] == [7]


async def test_a_generation_that_comes_twice_runs_once() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate)) as bench:
        await bench.assign("HOLD")
        await eventually(lambda: gate.num_held("v0") == 1)
        assert await bench.assign("HOLD") == Assigned()
        gate.open()
        await bench.value("v0")
        await bench.wait_idle()
        assert gate.num_held("v0") == 1
        assert bench.num_stored == {"v0": 1}


async def test_a_variable_that_is_set_already_stays_as_it_is() -> None:
    async with open_bench() as bench:
        await set_variable(bench.bus, address_of("v0"), "theirs")
        await bench.assign("mine", "FAIL")
        await bench.wait_idle()
        assert await bench.value("v0") == "theirs"
        assert bench.num_stored == {"v0": 1, "v1": 1}


async def test_what_is_wrong_with_one_prompt_is_its_own_error() -> None:
    missing = BlobRef(digest="0" * 64, size_bytes=5)
    async with open_bench() as bench:
        digest = await bench.bus.put_blob("t", b"\xff\xfe")
        no_text = BlobRef(digest=digest, size_bytes=2)
        generations = [generation("v0", [0]), generation("v1", [1]), generation("v2", [2]), generation("v3", [9])]
        await bench.assign_batch(["fine", missing, no_text], generations)
        assert await bench.value("v0") == expected("fine")
        codes = [_code(await bench.value(f"v{number}")) for number in (1, 2, 3)]
        assert codes == ["blob_missing", "malformed_message", "internal"]
        assert bench.states == ["loading", "ready"], "it did not fail"


def _code(value: Value) -> str:
    assert isinstance(value, ErrorInfo)
    return value.code


async def test_an_error_that_will_not_go_away_is_stored_and_one_that_may_is_given_back() -> None:
    def write(request: GenerationRequest) -> str:
        if request.text == "long":
            raise ContextLengthExceeded(num_prompt_tokens=9, max_tokens=1, limit=5)
        if request.text == "full":
            raise CapacityExhausted("no pages are free")
        raise ZeroDivisionError("oops")

    async with open_bench(lambda: make_engine(write)) as bench:
        await bench.assign("long", "full", "bug")
        assert _code(await bench.value("v0")) == "context_length_exceeded"
        assert _code(await bench.value("v2")) == "engine_failure"
        await eventually(lambda: bool(bench.returned))
        (returned,) = bench.returned
        assert (returned.worker, returned.model, returned.keys) == ("w1", "scripted", ["t.s.v1"])
        assert returned.reason.code == "capacity_exhausted"
        await bench.wait_idle()
        assert "v1" not in bench.num_stored


async def test_a_deadline_that_has_passed_is_an_error() -> None:
    async with open_bench() as bench:
        await bench.assign("late", deadline=1.0)
        assert _code(await bench.value("v0")) == "deadline_exceeded"


# -- cancelling ------------------------------------------------------------------------------------------------------


async def test_what_is_cancelled_is_stopped_and_nothing_is_stored() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate)) as bench:
        await bench.assign("HOLD 1", "HOLD 2")
        await eventually(lambda: len(gate.held) == 2)
        await bench.remote.tell(CancelGenerations(keys=["t.s.v0", "t.s.unknown"]))
        await eventually(lambda: gate.was_cancelled("v0"))
        await eventually(lambda: bench.statuses[-1].running == ["t.s.v1"])
        gate.open()
        await bench.value("v1")
        assert bench.num_stored == {"v1": 1}


async def test_what_was_cancelled_may_be_assigned_again() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate)) as bench:
        await bench.assign("HOLD")
        await eventually(lambda: gate.num_held("v0") == 1)
        await bench.remote.tell(CancelGenerations(keys=["t.s.v0"]))
        await bench.wait_idle()
        gate.open()
        await bench.assign("HOLD")
        assert await bench.value("v0") == expected("HOLD")


class _LateBus(MemoryBus):
    """Gives blobs when it is told to."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.may_answer = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def get_blob(self, tenant: str, digest: str) -> bytes:
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().get_blob(tenant, digest)


async def test_what_is_cancelled_before_its_prompt_is_there_is_never_started() -> None:
    started: list[str] = []

    def write(request: GenerationRequest) -> str:
        started.append(request.key)
        return "x"

    bus = _LateBus(fresh_server())
    async with open_bench(lambda: make_engine(write), bus=bus) as bench:
        digest = await bench.bus.put_blob("t", b"text")
        generations = [generation("v0", [0]), generation("v1", [0])]
        await bench.assign_batch([BlobRef(digest=digest, size_bytes=4)], generations)
        await bus.is_asked.wait()
        await bench.remote.tell(CancelGenerations(keys=["t.s.v0"]))
        await eventually(lambda: bench.statuses[-1].running == ["t.s.v1"])
        bus.may_answer.set()
        await bench.value("v1")
        assert started == ["t.s.v1"]


# -- standing by -----------------------------------------------------------------------------------------------------


async def test_a_worker_that_stands_by_refuses_what_comes_and_finishes_what_it_has() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate), invocation="5f0c") as bench:
        await bench.assign("HOLD")
        assert await bench.remote.ask(StandBy(duration_s=60), timeout_s=5) is None
        await eventually(lambda: bench.states[-1] == "standby")
        assert bench.statuses[-1].invocation == "5f0c"
        assert await bench.assign("new", first=1) == Assigned(refused=["t.s.v1"])
        gate.open()
        assert await bench.value("v0") == expected("HOLD")
        await bench.remote.ask(StandBy(duration_s=0), timeout_s=5)
        assert bench.states[-1] == "ready"
        assert await bench.assign("new", first=1) == Assigned()


async def test_a_worker_stands_by_no_longer_than_it_was_told_to() -> None:
    async with open_bench() as bench:
        await bench.remote.ask(StandBy(duration_s=60), timeout_s=5)
        await bench.remote.ask(StandBy(duration_s=0.01), timeout_s=5)
        await eventually(lambda: bench.states[-1] == "ready")
        assert bench.states.count("standby") >= 1


async def test_a_worker_that_drains_is_not_taken_back_by_a_standby() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate), drain_s=20) as bench:
        await bench.assign("HOLD")
        await bench.worker.tell(Drain())
        await eventually(lambda: bench.states[-1] == "draining")
        await bench.remote.ask(StandBy(duration_s=0), timeout_s=5)
        assert bench.states[-1] == "draining"
        gate.open()
        await bench.worker.wait_stopped()


# -- draining --------------------------------------------------------------------------------------------------------


async def test_a_worker_that_drains_refuses_what_comes_and_finishes_what_it_has() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate), drain_s=20) as bench:
        await bench.assign("HOLD")
        await bench.worker.tell(Drain())
        await eventually(lambda: bench.states[-1] == "draining")
        assert await bench.assign("new", first=1) == Assigned(refused=["t.s.v1"])
        gate.open()
        await bench.worker.wait_stopped()
        assert await bench.value("v0") == expected("HOLD")
        await eventually(lambda: bench.states[-1] == "stopped")
        assert bench.returned == []


async def test_a_worker_that_drains_gives_back_what_takes_too_long() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate), drain_s=0.05) as bench:
        await bench.assign("HOLD 1", "HOLD 2")
        await bench.worker.tell(Drain())
        await bench.worker.wait_stopped()
        await eventually(lambda: bool(bench.returned))
        (returned,) = bench.returned
        assert sorted(returned.keys) == ["t.s.v0", "t.s.v1"]
        assert returned.reason.code == "generation_aborted"
        assert bench.num_stored == {}


async def test_an_idle_worker_drains_at_once_also_after_an_empty_batch() -> None:
    async with open_bench(drain_s=60) as bench:
        await bench.assign_batch([], [])
        async with asyncio.timeout(5):
            await bench.worker.tell(Drain())
            await bench.worker.tell(Drain())
            await bench.worker.wait_stopped()


# -- trouble ---------------------------------------------------------------------------------------------------------


async def test_when_the_engine_breaks_it_starts_again_and_says_that_it_has_nothing() -> None:
    gate = Gate()
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate)) as bench:
        await bench.assign("HOLD 1", "HOLD 2")
        await eventually(lambda: len(gate.held) == 2)
        gate.breaks = 1
        await eventually(lambda: bench.states == ["loading", "ready", "stopped", "loading", "ready"])
        assert bench.statuses[-1].running == []
        assert bench.num_stored == {}, "its work is not failed but done by others"
        gate.open()
        await bench.assign("HOLD 1")
        assert await bench.value("v0") == expected("HOLD 1")


async def test_a_result_is_kept_until_the_server_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parrot_workers.reports.RETRY_S", 0.001)
    errors: list[Exception] = [RequestTimeout(subject="x", timeout_s=1) for _ in range(5)]
    async with open_bench(bus=RefusingBus(fresh_server(), errors)) as bench:
        await bench.assign("prompt")
        assert await bench.value("v0") == expected("prompt")
        assert bench.states == ["loading", "ready"]


async def test_a_result_that_the_server_refuses_is_given_back() -> None:
    errors: list[Exception] = [PublishRejected(subject="x", err_code=10, description="no room") for _ in range(2)]
    async with open_bench(bus=RefusingBus(fresh_server(), errors)) as bench:
        await bench.assign("prompt", "FAIL")
        await eventually(lambda: len(bench.returned) == 2)
        assert {returned.reason.code for returned in bench.returned} == {"publish_rejected"}
        assert bench.states == ["loading", "ready"]
        await bench.wait_idle()


async def test_a_piece_that_is_too_large_to_send_is_left_out() -> None:
    text = "\N{PARROT}" * 500_000
    async with open_bench(lambda: make_engine(lambda _: text, tokens_per_step=len(text))) as bench:
        await bench.assign("x", sampling=Sampling(max_tokens=1_000_000))
        assert isinstance(await bench.value("v0"), BlobRef)
        await bench.assign("x", first=1, sampling=Sampling(max_tokens=3))
        assert await bench.value("v1") == text[:3]
        assert [delta.text for delta in bench.deltas] == [text[:3]]
        assert not await bench.bus.is_empty(STREAM_BLOBS, "pmq.t.blob.>")


async def test_when_the_connection_is_lost_for_good_the_engine_is_stopped_all_the_same() -> None:
    bus = MemoryBus(fresh_server())
    async with open_bench(bus=bus):
        await bus.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]
