"""Greedy texts are those of `transformers.generate`, whatever else runs at the same time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from parrot_workers.engine import Finished, GenerationRequest
from parrot_workers.engine.engine import SimpleEngine
from parrot_workers.models import LoadedModel

from tests.workers.checkpoints import FAMILIES
from tests.workers.driving import check_story, ends, make_request, run

_SYSTEM = "You are a helpful assistant. Answer with one word.\n"
_MANUAL = "Chapter 1. How to feed a parrot, and why it talks back to those who do.\n"
_PROMPTS = [
    _SYSTEM + "What is blue?",
    _SYSTEM + "Who?",
    _SYSTEM + "What is the name of the bird that speaks?",
    _MANUAL + "Seeds.",
    _MANUAL + "Fruit, and a little water in the morning.",
    _MANUAL,
    "x",
    "Something else entirely, of its own.",
    _SYSTEM + "What is blue?",
    _SYSTEM + _MANUAL,
]


class _VisibleTokens:
    """A tokenizer whose text has one character per token, so that equal texts are equal tokens."""

    bos_token_id = 256

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, token_ids: list[int], **_: object) -> str:
        return "".join(chr(0x4E00 + token_id) for token_id in token_ids)


def _generate(model: LoadedModel, request: GenerationRequest) -> list[int]:
    """Output tokens of `generate`, alone; the end-of-sequence token counted."""
    input_ids = torch.tensor([model.encode(request.prompt)])
    output = model.model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=request.sampling.max_tokens,
        do_sample=False,
        eos_token_id=sorted(model.eos_token_ids),
        pad_token_id=258,
    )
    token_ids: list[int] = output[0, input_ids.shape[1] :].tolist()
    return token_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("num_slots", "max_prefill_tokens"), [(1, 4096), (4, 30), (16, 4096)])
def test_greedy_tokens_equal_generate(
    loaded: Callable[[str], LoadedModel], family: str, num_slots: int, max_prefill_tokens: int
) -> None:
    """Ragged prompts in one pass or many, groups, requests that join while others run, rows that end early."""
    # Random models hardly ever say one certain token; one of 20 lets some rows end early.
    model = replace(loaded(family), tokenizer=_VisibleTokens(), eos_token_ids=frozenset(range(0, 264, 20)))
    requests = [make_request(f"r{i}", prompt, max_tokens=40 - i) for i, prompt in enumerate(_PROMPTS)]
    engine = SimpleEngine(model, num_slots=num_slots, max_prefill_tokens=max_prefill_tokens)
    engine.submit(requests[:6])
    events = engine.step() + engine.step()
    events += run(engine, requests[6:])
    check_story(events, [request.key for request in requests])
    for request in requests:
        end, expected = ends(events)[request.key], _generate(model, request)
        assert isinstance(end, Finished)
        is_eos = expected[-1] in model.eos_token_ids
        assert end.text == model.decode(expected[:-1] if is_eos else expected), request.key
        assert end.finish_reason == ("eos" if is_eos else "length")
        assert end.num_output_tokens == len(expected)
    shares = engine.statistics().num_shared_tokens > 0
    assert shares == (num_slots > 1 and not model.has_sliding_window)
