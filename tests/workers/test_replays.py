"""What a worker tells those who come late: the text so far of what it generates, and nothing of anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import Engine, create_engine
from parrot_workers.tiny_model import checkpoint_path

from parrot_mq.bus import Bus, Delivery, MemoryBus, request_replay
from parrot_mq.client.streaming import stream_text
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.messages import CancelGenerations, TokenDelta, Value, decode, replay_subject
from parrot_mq.types import Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.service import answer, eventually, expected, make_engine, running_service
from tests.workers.stepped_engine import SteppedEngine
from tests.workers.worker_bench import Bench, address_of, generation, open_bench

__all__ = ["_short_logs"]

PROMPT = "It was a dark and stormy night, and the parrot said:\n"


def _stepped(num_steps: int) -> tuple[SteppedEngine, Callable[[], Engine]]:
    """An engine that generates five characters a step, and how a worker makes it."""
    engine = SteppedEngine(make_engine(answer, num_slots=4, tokens_per_step=5))
    if num_steps:
        engine.allow(num_steps)
    return engine, lambda: engine


async def _ask(bus: Bus, variable: str, payload: bytes = b"") -> TokenDelta:
    answer = await bus.request(replay_subject(*address_of(variable)), payload, timeout_s=5)
    return decode(answer.payload, TokenDelta, answer.headers)


async def _written(bench: Bench, num: int) -> None:
    await eventually(lambda: sum(len(delta.text) for delta in bench.deltas) == num)


async def test_the_text_so_far_is_told_to_who_asks() -> None:
    engine, make = _stepped(1)
    async with open_bench(make) as bench:
        await bench.assign("prompt", attempt=3)
        await _written(bench, 5)
        assert await _ask(bench.bus, "v0") == TokenDelta(attempt=3, offset=0, text=expected("prompt")[:5])
        engine.allow(1)
        await _written(bench, 10)
        assert (await _ask(bench.bus, "v0", b'{"offset":4}')).text == expected("prompt")[4:10]


async def test_a_continued_generation_has_the_text_of_the_tokens_that_it_got() -> None:
    text = expected("prompt")
    _, make = _stepped(1)
    async with open_bench(make) as bench:
        await bench.assign("prompt", attempt=2, output_ids=list(map(ord, text[:7])))
        await _written(bench, 5)
        assert await _ask(bench.bus, "v0") == TokenDelta(attempt=2, offset=0, text=text[:12])


async def test_a_model_that_goes_on_tells_the_text_from_its_beginning() -> None:
    """Also of characters of which the earlier attempt had sampled only a part."""
    engine = SteppedEngine(create_engine(WorkerConfig(model_path=checkpoint_path(), num_slots=4)))
    engine.allow(60)
    sampling = Sampling(max_tokens=40, ignore_eos=True)
    async with open_bench(lambda: engine) as bench:
        await bench.assign(PROMPT, sampling=sampling)
        whole = await bench.value("v0")
        await bench.wait_idle()
        known = bench.tokens("v0")[:17]
    again = SteppedEngine(engine)
    again.allow(3)
    async with open_bench(lambda: again) as bench:
        await bench.assign(PROMPT, sampling=sampling, attempt=2, output_ids=known)
        await eventually(lambda: bool(bench.deltas))
        told = await _ask(bench.bus, "v0")
        assert isinstance(whole, str)
        assert told.offset == 0
        assert whole.startswith(told.text)
        assert len(told.text) >= bench.deltas[0].offset + len(bench.deltas[0].text)


async def test_of_what_it_does_not_generate_it_says_nothing() -> None:
    """Another variable; one that has not begun, that is finished, that was cancelled; a subject that is none."""
    engine, make = _stepped(0)
    async with open_bench(make) as bench:

        async def ask_all() -> None:
            for variable in ("v0", "v1", "other"):
                await request_replay(bench.bus, address_of(variable))
            await bench.bus.publish("pmq.t.replay.s", b"")
            await bench.bus.publish("pmq.t.replay.s.v.w", b"")

        await bench.assign("prompt")
        await ask_all()
        engine.allow(4)
        await bench.value("v0")
        await bench.wait_idle()
        await ask_all()
        engine.allow(1)
        await bench.assign("other prompt", first=1)
        await _written(bench, 16 + 5)
        await bench.remote.tell(CancelGenerations(keys=["t.s.v1"]))
        engine.allow(1)
        await bench.wait_idle()
        await ask_all()
        num_heard = len(bench.deltas)
        engine.allow(1)
        await bench.assign("a third", first=2)
        await _written(bench, 16 + 5 + 5)
        assert len(bench.deltas) == num_heard + 1, "answers would have come here, before this"


async def test_what_is_told_and_what_follows_it_leave_no_gap() -> None:
    """Readers come at any moment while it generates as fast as it can."""
    text = "".join(f"{number} parrots, " for number in range(300))
    async with open_bench(lambda: make_engine(lambda _: text, num_slots=4, tokens_per_step=3)) as bench:
        await bench.assign("prompt")
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(_read(bench, number)) for number in range(20)]
            await bench.value("v0")
        assert {reading.result() for reading in readers} == {text}


async def _read(bench: Bench, num_before: int) -> str:
    """Come when so many deltas have been sent, and read to the end."""
    await eventually(lambda: len(bench.deltas) >= num_before * 5)
    value: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
    async with MemoryBus(bench.server) as bus:

        async def wait_value() -> None:
            value.set_result(await bench.value("v0"))

        async with asyncio.TaskGroup() as group:
            group.create_task(wait_value())
            return "".join([piece async for piece in stream_text(bus, "t", "s", "v0", value, 20)])


async def test_a_reader_who_came_late_reads_on_when_the_worker_dies() -> None:
    """Half is generated when it comes; then the worker is killed, and another one goes on."""
    text = "Once upon a time there was a \N{PARROT}, who died."
    first = SteppedEngine(make_engine(lambda _: text, tokens_per_step=4))
    first.allow(5)
    second = SteppedEngine(make_engine(lambda _: text, tokens_per_step=4))
    config = CoordinatorConfig(lease_s=0.5, settle_s=0, model_grace_s=60)
    async with running_service(config, workers=()) as service, service.client().session("s") as session:
        worker = await service.add_worker("first", lambda: first)
        heard: list[TokenDelta] = []

        async def hear(delivery: Delivery) -> None:
            heard.append(decode(delivery.payload, TokenDelta))

        await service.bus.subscribe("pmq.*.stream.>", hear)
        await service.bus.publish_once(
            "pmq.default.task.s.k", b'{"template":"Tell{{story}}","outputs":{"story":{"variable":"story"}}}'
        )
        await eventually(lambda: sum(len(delta.text) for delta in heard) == 20)
        pieces: list[str] = []

        async def read() -> None:
            async for piece in session.variable("story").stream(30):
                pieces.append(piece)

        reading = service.group.create_task(read())
        await eventually(lambda: bool(service.server._exact.get("pmq.default.stream.s.story")))
        first.allow(1)
        await eventually(lambda: "".join(pieces) == text[:24])
        await service.add_worker("second", lambda: second)
        await worker.kill()
        second.allow(100)
        await reading
        assert "".join(pieces) == text
        assert {delta.attempt for delta in heard} >= {1, 2}


def test_a_generation_is_named_by_its_address() -> None:
    """So a request's subject tells which one it is about."""
    each = replace(generation("v", []), tenant="a", session="b")
    assert each.key == "a.b.v"
