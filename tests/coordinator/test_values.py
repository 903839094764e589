"""Texts of every size travel, as inputs and as outputs."""

from __future__ import annotations

import pytest
from parrot_workers.engine import GenerationRequest

from parrot_mq.messages import BlobRef, decode_value
from parrot_mq.types import Sampling
from tests.coordinator.programs import program, ref
from tests.coordinator.service import eventually, expected, make_engine, running_service

SIZES = [0, 1, 262_144, 262_145, 300 * 1024, 900_000, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
async def test_an_input_of_any_size(size: int) -> None:
    text = "x" * size
    async with running_service() as service, program(service) as run:
        await run.run("[{{x}}]{{out}}", reads={"x": ref("x")})
        await run.session.set("x", text)
        assert await run.get("out") == expected(f"[{text}]")
        assert await run.get("x") == text


@pytest.mark.parametrize("size", [0, 1, 300 * 1024, 3_000_000])
async def test_an_output_of_any_size(size: int) -> None:
    text = "\N{PARROT}" * (size // 4)

    def write(request: GenerationRequest) -> str:
        return text if request.text == "long" else expected(request.text)

    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(engine=lambda: make_engine(write, tokens_per_step=50_000))
        await run.run("long{{out}}", writes="x", sampling=Sampling(max_tokens=1_000_000))
        await run.run("[{{x}}]{{out}}", reads={"x": ref("x")})
        assert await run.get("x") == text
        assert await run.get("out") == expected(f"[{text}]")
        await eventually(service.is_all_done)


async def test_a_piece_that_is_too_large_for_a_message_is_left_out_and_the_value_is_whole() -> None:
    text = "\N{PARROT}" * 500_000
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(engine=lambda: make_engine(lambda _: text, tokens_per_step=len(text)))
        await run.run("long{{out}}", writes="x", sampling=Sampling(max_tokens=1_000_000))
        pieces = [piece async for piece in run.session.stream("x", 20)]
        assert "".join(pieces) == text
        assert len(service.assignments("x")) == 1


async def test_a_large_value_is_a_claim_check_and_its_prefix_hash_is_that_of_its_text() -> None:
    text = "x" * 300_000
    seen: list[tuple[str, ...]] = []

    def write(request: GenerationRequest) -> str:
        seen.append(request.prefix_hashes)
        return "ok"

    async with running_service(workers=()) as service, program(service) as run:
        await service.add_worker(engine=lambda: make_engine(write))
        await run.session.set("x", text)
        stored = (await service.bus.get("PMQ_VARS", [f"pmq.default.var.{run.name}.x"])).popitem()[1]
        assert isinstance(decode_value(stored.payload, stored.headers), BlobRef)
        await run.run("{{x}}!{{out}}", reads={"x": ref("x")}, writes="a")
        await run.run("{{x}}!{{out}}", reads={"x": text}, writes="b")
        await run.get("a")
        await run.get("b")
        assert seen[0] == seen[1]


async def test_a_large_value_that_is_gone_is_an_error_of_the_output() -> None:
    async with running_service(workers=()) as service, program(service) as run:
        await run.session.set("x", "x" * 300_000)
        await service.bus.purge("PMQ_BLOBS", "pmq.*.blob.>")
        await run.run("{{x}}!{{out}}", reads={"x": ref("x")})
        await service.add_worker()
        assert (await run.error("out")).code == "blob_missing"


async def test_a_claim_check_of_what_is_no_text_is_an_error_of_the_output_and_the_worker_lives() -> None:
    async with running_service() as service, program(service, "demo") as run:
        digest = await service.bus.put_blob("default", b"\xff" * 300_000)
        ref_payload = b'{"digest": "%s", "size_bytes": 300000}' % digest.encode()
        await service.bus.publish("pmq.default.var.demo.x", ref_payload, headers={"Pmq-Blob": digest})
        await run.run("{{x}}!{{out}}", reads={"x": ref("x")})
        assert (await run.error("out")).code == "malformed_message"
        assert (await run.error("x")).code == "malformed_message"
        await run.run("fine{{out}}", writes="y")
        assert await run.get("y") == expected("fine")
        assert len(service.assignments("out")) == 1


async def test_a_large_plain_value_that_a_client_published_itself_is_an_input_like_any() -> None:
    async with running_service() as service, program(service) as run:
        for i in range(5):
            await run.set(f"x{i}", str(i) * 500_000)
        await run.run("{{all}}{{out}}", reads={"all": [ref(f"x{i}") for i in range(5)]}, separators={"all": ""})
        assert await run.get("out") == expected("".join(str(i) * 500_000 for i in range(5)))
