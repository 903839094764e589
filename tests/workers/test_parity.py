"""Greedy tokens are those of `transformers.generate`, whatever else runs, shared, cut, preempted or handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.attention import ALWAYS, NEVER, CostModel
from parrot_workers.config import EngineConfig
from parrot_workers.engine import EngineEvent, Finished, GenerationRequest, PrefillRequest
from parrot_workers.engine.assembly import assemble
from parrot_workers.models import LoadedModel

from parrot_mq.types import Sampling
from tests.workers.checkpoints import FAMILIES, load_plain
from tests.workers.driving import check_story, ends, run

pytestmark = pytest.mark.slow

_SYSTEM = list(b"You are a helpful assistant. Answer with one word.\n")
_MANUAL = list(b"Chapter 1. How to feed a parrot, and why it talks back to those who do.\n")
_PROMPTS = [
    [*_SYSTEM, *b"What is blue?"],
    [*_SYSTEM, *b"Who?"],
    [*_SYSTEM, *b"What is the name of the bird that speaks?"],
    [*_MANUAL, *b"Seeds."],
    [*_MANUAL, *b"Fruit, and a little water in the morning."],
    _MANUAL,
    list(b"x"),
    list(b"Something else entirely, of its own."),
    [*_SYSTEM, *b"What is blue?"],
    [*_SYSTEM, *_MANUAL],
]
_NUM_NEW = 24
# Random models hardly ever say one certain token; one of 20 lets some rows end early.
_EOS = frozenset(range(0, 264, 20))


@pytest.fixture(scope="session")
def expected(checkpoint: Callable[[str], Path]) -> Callable[[str], list[list[int]]]:
    """Output tokens of `generate` for each prompt, alone; the end-of-sequence token counted."""
    outputs: dict[str, list[list[int]]] = {}

    def get(family: str) -> list[list[int]]:
        if family not in outputs:
            model = load_plain(checkpoint(family))
            outputs[family] = [_generate(model, prompt) for prompt in _PROMPTS]
        return outputs[family]

    return get


def _generate(model: Any, prompt: list[int]) -> list[int]:
    input_ids = torch.tensor([prompt])
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=_NUM_NEW,
        do_sample=False,
        eos_token_id=sorted(_EOS),
        pad_token_id=258,
    )
    token_ids: list[int] = output[0, input_ids.shape[1] :].tolist()
    return token_ids


@pytest.fixture
def model(loaded: Callable[[str], LoadedModel]) -> Callable[[str], LoadedModel]:
    return lambda family: replace(loaded(family), eos_token_ids=_EOS)


def _requests(indices: Iterable[int] = range(len(_PROMPTS)), **fields: Any) -> list[GenerationRequest]:
    sampling = Sampling(max_tokens=_NUM_NEW)
    return [GenerationRequest(key=f"r{i}", prompt=tuple(_PROMPTS[i]), sampling=sampling, **fields) for i in indices]


def _assert_equal(events: list[EngineEvent], expected: list[list[int]]) -> None:
    found = ends(events)
    for index, tokens in enumerate(expected):
        end = found[f"r{index}"]
        assert isinstance(end, Finished), end
        assert list(end.output_ids) == tokens, f"r{index}"
        assert end.finish_reason == ("eos" if tokens[-1] in _EOS else "length")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("config", "cost_model"),
    [
        (EngineConfig(), ALWAYS),
        (EngineConfig(num_slots=1), None),
        (EngineConfig(max_step_tokens=7, num_slots=4), ALWAYS),
        (EngineConfig(cache_tokens=192, page_size=4), ALWAYS),
        (EngineConfig(share_prefixes=False, chunked_prefill=False, max_step_tokens=64), NEVER),
        (EngineConfig(attention="reference"), ALWAYS),
    ],
    ids=["shared", "alone", "chunks", "preempted", "unshared", "reference"],
)
def test_greedy_tokens_equal_generate(
    model: Callable[[str], LoadedModel],
    expected: Callable[[str], list[list[int]]],
    family: str,
    config: EngineConfig,
    cost_model: CostModel | None,
) -> None:
    """Ragged prompts, groups, requests that join while others run, rows that end early."""
    engine = assemble(model(family), config, cost_model=cost_model)
    requests = _requests()
    engine.submit(requests[:6])
    events = engine.step() + engine.step()
    engine.check_integrity()
    events += run(engine, requests[6:])
    check_story(events, [request.key for request in requests])
    _assert_equal(events, expected(family))
    statistics = engine.statistics()
    assert (statistics.num_shared_tokens > 0) == config.share_prefixes
    assert (statistics.num_levels > 0) == (cost_model is ALWAYS and config.num_slots > 1)
    assert (statistics.num_preemptions > 0) == (config.cache_tokens > 0)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("max_step_tokens", range(1, 20))
def test_any_chunk_size_gives_the_same_tokens(
    model: Callable[[str], LoadedModel], expected: Callable[[str], list[list[int]]], family: str, max_step_tokens: int
) -> None:
    engine = assemble(model(family), EngineConfig(max_step_tokens=max_step_tokens, page_size=4), cost_model=ALWAYS)
    _assert_equal(run(engine, _requests(range(5))), expected(family)[:5])


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_tokens_that_are_read_one_step_late_are_the_same(
    model: Callable[[str], LoadedModel], expected: Callable[[str], list[list[int]]], family: str
) -> None:
    """As on a GPU: the next step is launched before the tokens of this one are known."""
    engine = assemble(model(family), EngineConfig(cache_tokens=256, page_size=4), cost_model=ALWAYS, lookahead=1)
    _assert_equal(run(engine, _requests()), expected(family))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("max_step_tokens", [4, 60, 512])
@pytest.mark.parametrize("cache_tokens", [0, 192])
def test_prompts_that_are_computed_ahead_become_the_same_tokens(
    model: Callable[[str], LoadedModel],
    expected: Callable[[str], list[list[int]]],
    family: str,
    lookahead: int,
    max_step_tokens: int,
    cache_tokens: int,
) -> None:
    """Right beginnings, wrong ones, and some that are given up half-way; before others run, and beside them."""
    config = EngineConfig(max_step_tokens=max_step_tokens, page_size=4, cache_tokens=cache_tokens)
    engine = assemble(model(family), config, cost_model=ALWAYS, lookahead=lookahead)
    ahead = [PrefillRequest(key=f"r{i}", prompt=tuple(prompt[: len(prompt) - 3])) for i, prompt in enumerate(_PROMPTS)]
    ahead = [request for request in ahead if request.prompt]
    engine.prefill([replace(ahead[0], prompt=(*_PROMPTS[0][:30], 1, 2, 3)), *ahead[3:5]])
    events = [event for _ in range(3) for event in engine.step()]
    engine.prefill(ahead[:6])
    events += [event for _ in range(2) for event in engine.step()]
    engine.submit(_requests(range(3)))
    for _ in range(4):
        events += engine.step()
        engine.check_integrity()
    engine.prefill(ahead[3:])
    events += run(engine, _requests(range(3, len(_PROMPTS))))
    engine.check_integrity()
    check_story(events, [f"r{i}" for i in range(len(_PROMPTS))])
    _assert_equal(events, expected(family))
    found = [end for end in ends(events).values() if isinstance(end, Finished)]
    assert all(end.num_prefilled_tokens <= end.num_shared_tokens for end in found)
    assert engine.statistics().num_prefilled_tokens >= sum(end.num_prefilled_tokens for end in found) > 0


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("num_known", [0, 1, 5, _NUM_NEW - 1])
def test_a_second_engine_goes_on_from_the_tokens_so_far(
    model: Callable[[str], LoadedModel], expected: Callable[[str], list[list[int]]], family: str, num_known: int
) -> None:
    outputs = expected(family)
    requests = [
        replace(request, output_ids=tuple(outputs[index][:num_known])) for index, request in enumerate(_requests())
    ]
    events = run(assemble(model(family)), requests)
    check_story(events, [request.key for request in requests], num_begun=None if num_known else 0)
    _assert_equal(events, outputs)
