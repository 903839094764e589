"""Sampling inside the engine: parity with `generate`, constraints, log probabilities, attempts that are handed on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.config import EngineConfig
from parrot_workers.engine import Engine, Finished, GenerationRequest
from parrot_workers.engine.assembly import assemble
from parrot_workers.models import LoadedModel

from parrot_mq.errors import NoTokenAllowed
from parrot_mq.types import Sampling, TokenLogprob
from tests.workers.checkpoints import load_plain
from tests.workers.driving import check_story, ends, run
from tests.workers.masks import BrokenMask, NumberMask

_FAMILY = "llama"
_EOS = 257
_PROMPTS = [list(b"How to feed a parrot: seeds"), list(b"How to feed a parrot: fruit, and water"), list(b"x")]
_TINY = EngineConfig(cache_tokens=64, page_size=4)
"""Pages for about two of these texts: the others are preempted."""


@pytest.fixture
def model(loaded: Callable[[str], LoadedModel]) -> LoadedModel:
    return replace(loaded(_FAMILY), eos_token_ids=frozenset([_EOS]))


@pytest.fixture
def plain(checkpoint: Callable[[str], Path]) -> Any:
    """The model as transformers runs it."""
    return load_plain(checkpoint(_FAMILY))


def _outputs(engine: Engine, requests: list[GenerationRequest]) -> dict[str, Finished]:
    events = run(engine, requests)
    is_begun = any(request.output_ids for request in requests)
    check_story(events, [request.key for request in requests], num_begun=None if is_begun else 0)
    found = ends(events)
    assert all(isinstance(end, Finished) for end in found.values()), found
    return {key: end for key, end in found.items() if isinstance(end, Finished)}


def _request(key: str, prompt: list[int], sampling: Sampling, **fields: Any) -> GenerationRequest:
    return GenerationRequest(key=key, prompt=tuple(prompt), sampling=sampling, **fields)


def _generate(plain: Any, prompt: list[int], **options: Any) -> list[int]:
    input_ids = torch.tensor([prompt])
    mask = torch.ones_like(input_ids)
    output = plain.generate(
        input_ids, attention_mask=mask, do_sample=False, eos_token_id=_EOS, pad_token_id=258, **options
    )
    token_ids: list[int] = output[0, len(prompt) :].tolist()
    return token_ids


@pytest.mark.parametrize("config", [EngineConfig(), _TINY], ids=["at leisure", "preempted"])
def test_greedy_tokens_equal_generate_with_the_same_processors(
    model: LoadedModel, plain: Any, config: EngineConfig
) -> None:
    """Each request has its own penalties, in one batch with all others."""
    options: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"repetition_penalty": 0.8}, {"repetition_penalty": 0.8}),
        ({"logit_bias": {65: 3.0, 97: -2.0}}, {"sequence_bias": {(65,): 3.0, (97,): -2.0}}),
        (
            {"min_tokens": 12, "logit_bias": {_EOS: 9.0}},
            {"min_new_tokens": 12, "sequence_bias": {(_EOS,): 9.0}},
        ),
    ]
    requests, expected = [], {}
    for number, (ours, theirs) in enumerate(options):
        for index, prompt in enumerate(_PROMPTS):
            key = f"{number}-{index}"
            requests.append(_request(key, prompt, Sampling(max_tokens=20, **ours)))
            expected[key] = _generate(plain, prompt, max_new_tokens=20, **theirs)
    engine = assemble(model, config)
    found = _outputs(engine, requests)
    assert {key: list(end.output_ids) for key, end in found.items()} == expected
    assert len(found["4-0"].output_ids) == 13
    assert (engine.statistics().num_preemptions > 0) == (config is _TINY)


_SAMPLINGS = [
    Sampling(max_tokens=16, temperature=1.0, top_p=0.9, ignore_eos=True),
    Sampling(max_tokens=16, temperature=1.5, top_k=20, min_p=0.02, presence_penalty=1.0, ignore_eos=True),
    Sampling(max_tokens=16, temperature=0.8, repetition_penalty=1.2, frequency_penalty=0.3, ignore_eos=True),
]


@pytest.mark.parametrize("num_given", [1, 7, 15])
def test_a_sampled_text_goes_on_as_it_would_have(model: LoadedModel, num_given: int) -> None:
    """On a second engine, from the tokens so far, in another batch."""
    requests = [_request(f"{i}", _PROMPTS[i], sampling, seed=i) for i, sampling in enumerate(_SAMPLINGS)]
    whole = _outputs(assemble(model, EngineConfig()), requests)
    handed_on = [
        replace(request, output_ids=whole[request.key].output_ids[:num_given]) for request in reversed(requests)
    ]
    assert _texts(_outputs(assemble(model, EngineConfig()), handed_on)) == _texts(whole)


def test_a_preempted_text_goes_on_as_it_would_have(model: LoadedModel) -> None:
    requests = [_request(f"{i}", _PROMPTS[i % 3], _SAMPLINGS[i % 3], seed=i) for i in range(6)]
    engine = assemble(model, _TINY)
    assert _texts(_outputs(engine, requests)) == _texts(_outputs(assemble(model, EngineConfig()), requests))
    assert engine.statistics().num_preemptions > 0


def _texts(found: dict[str, Finished]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {key: (end.text, end.output_ids) for key, end in found.items()}


# -- ends ------------------------------------------------------------------------------------------------------------


def test_a_stop_token_ends_the_text_before_it(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig())
    whole = _outputs(engine, [_request("a", _PROMPTS[0], Sampling(max_tokens=16, ignore_eos=True))])["a"]
    stop = whole.output_ids[5]
    begin = whole.output_ids.index(stop)
    sampling = Sampling(max_tokens=16, stop_token_ids=(stop,), ignore_eos=True)
    found = _outputs(engine, [_request("a", _PROMPTS[0], sampling)])["a"]
    assert (found.output_ids, found.finish_reason) == (whole.output_ids[: begin + 1], "stop")
    assert found.text == model.decode(list(whole.output_ids[:begin]))


# -- constraints -----------------------------------------------------------------------------------------------------


def test_a_constraint_shapes_its_text_and_no_other(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig())
    free = _request("free", _PROMPTS[0], Sampling(max_tokens=10))
    alone = _outputs(engine, [free])["free"]
    sampling = Sampling(max_tokens=10, temperature=1.0)
    masked = [
        _request(f"{seed}", _PROMPTS[seed % 3], sampling, seed=seed, mask=NumberMask(eos_token_id=_EOS))
        for seed in range(5)
    ]
    found = _outputs(engine, [*masked, free])
    assert _texts(found)["free"] == _texts({"free": alone})["free"]
    for request in masked:
        assert re.fullmatch("-?[0-9]{1,4}", found[request.key].text)
        assert found[request.key].finish_reason == "eos"


def test_a_constrained_text_goes_on_as_it_would_have(model: LoadedModel) -> None:
    engine = assemble(model, EngineConfig())

    def generate(output_ids: tuple[int, ...]) -> Finished:
        mask = NumberMask(eos_token_id=None, max_digits=8)
        sampling = Sampling(max_tokens=20, temperature=2.0)
        request = _request("a", _PROMPTS[1], sampling, seed=3, mask=mask, output_ids=output_ids)
        return _outputs(engine, [request])["a"]

    whole = generate(())
    assert len(whole.text.lstrip("-")) == 8
    for num_given in range(len(whole.output_ids) + 1):
        assert _texts({"a": generate(whole.output_ids[:num_given])}) == _texts({"a": whole})


def test_a_constraint_that_fails_fails_its_request_alone(model: LoadedModel) -> None:
    sampling = Sampling(max_tokens=10, min_tokens=9, logit_bias=dict.fromkeys(b"0123456789", 50.0))
    dead = _request("dead", _PROMPTS[0], sampling, mask=NumberMask(eos_token_id=_EOS))  # 4 digits, and no end yet
    broken = _request("broken", _PROMPTS[1], sampling, mask=BrokenMask())
    found = ends(run(assemble(model, EngineConfig()), [dead, broken, _request("free", _PROMPTS[2], Sampling())]))
    assert isinstance(found["dead"], NoTokenAllowed)
    assert "its constraint raised RuntimeError: no grammar" in str(found["broken"])
    assert isinstance(found["free"], Finished)


# -- log probabilities -----------------------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_the_model(model: LoadedModel, plain: Any) -> None:
    sampling = Sampling(max_tokens=8, temperature=1.0, repetition_penalty=1.5, logprobs=3, ignore_eos=True)
    found = _outputs(assemble(model, EngineConfig()), [_request("a", _PROMPTS[0], sampling, seed=1)])["a"]
    text = torch.tensor([[*_PROMPTS[0], *found.output_ids]])
    with torch.inference_mode():
        expected = plain(text).logits[0, len(_PROMPTS[0]) - 1 : -1].log_softmax(-1)  # [num_output_tokens, vocab_size]
    assert len(found.logprobs) == len(found.output_ids) == 8
    for told, token_id, row in zip(found.logprobs, found.output_ids, expected, strict=True):
        assert isinstance(told, TokenLogprob)
        assert told.token_id == token_id
        assert told.logprob == pytest.approx(row[token_id].item(), abs=1e-4)
        best = row.topk(3)
        assert [value for _, value in told.alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [each for each, _ in told.alternatives] == best.indices.tolist()
