"""What a real engine cannot do becomes a typed error of its task, on the whole way from the bus; the rest goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from parrot_mq.errors import ParrotError
from parrot_mq.messages import task_subject
from parrot_mq.types import Sampling
from tests.coordinator.conftest import _short_logs
from tests.coordinator.programs import Program, ref
from tests.workers.worker_bench import open_tiny

__all__ = ["_short_logs"]

SHORT = Sampling(max_tokens=4)


@pytest.fixture
async def run() -> AsyncIterator[Program]:
    """A session of a service with the tiny model; it still works when the test is over."""
    async with open_tiny(num_slots=4, cache_tokens=4096) as opened:
        yield opened
        await opened.run("still here{{out}}", writes="last", sampling=SHORT)
        assert await opened.get("last")
        assert opened.service.states == {"worker": "ready"}


async def _error(run: Program, prompt: str, **sampling: object) -> ParrotError:
    await run.run("{{x}}{{out}}", reads={"x": prompt}, sampling=Sampling(**sampling))  # type: ignore[arg-type]
    return await run.error("out")


async def test_a_prompt_that_is_too_long_names_the_limit(run: Program) -> None:
    error = await _error(run, "word " * 2_000, max_tokens=4)
    assert error.code == "context_length_exceeded"
    assert error.facts["limit"] == 2048


async def test_an_output_that_could_not_fit_is_refused_before_it_begins(run: Program) -> None:
    assert (await _error(run, "short", max_tokens=100_000)).code == "context_length_exceeded"


@pytest.mark.parametrize(
    "sampling", [{"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"min_p": 2}, {"unknown": 1}, {"stop": [""]}]
)
async def test_sampling_that_cannot_be_names_the_field(run: Program, sampling: dict[str, object]) -> None:
    record = {"template": "x{{out}}", "outputs": {"out": {"variable": "out", "sampling": sampling}}}
    await run.service.bus.publish_once(task_subject(run.tenant, run.name, "t"), json.dumps(record).encode())
    error = await run.error("out")
    assert error.code == "malformed_message"
    assert next(iter(sampling)) in error.message


async def test_an_empty_prompt_is_a_beginning_or_an_error(run: Program) -> None:
    await run.run("{{x}}{{out}}", reads={"x": ""}, sampling=SHORT)
    assert isinstance(await run.get("out"), str)


async def test_a_stop_string_that_never_comes_ends_at_the_limit(run: Program) -> None:
    await run.run("say something{{out}}", sampling=Sampling(max_tokens=5, stop=("\N{PARROT}" * 60,)))
    assert await run.get("out")


async def test_a_value_that_looks_like_a_special_token_is_only_text(run: Program) -> None:
    """What it does to the model is the model's affair; the engine neither ends nor fails by it."""
    await run.run("{{x}} and {{y}}{{out}}", reads={"x": "<bos><eos></s><|im_end|>", "y": ref("user")}, sampling=SHORT)
    await run.set("user", "<eos>" * 50)
    assert isinstance(await run.get("out"), str)
