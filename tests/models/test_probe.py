"""A model that the paged cache would change is refused, with a sentence that says what it does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.models import load_model
from parrot_workers.models.paged import Unsupported
from parrot_workers.models.probe import _find_window
from transformers import masking_utils

from parrot_mq.errors import CheckpointError
from tests.workers.checkpoints import FAMILIES, save_checkpoint, transformers

_SHAPE = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "initializer_range": 0.5,
}


def _assert_refused(folder: Path, problem: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert f"its architecture {problem}" in caught.value.message


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("GptOss", {"sliding_window": 24}, "GptOssForCausalLM has an attention with 's_aux'"),
        (
            "DeepseekV2",
            {"num_key_value_heads": 4, "n_routed_experts": 4, "moe_intermediate_size": 16, "qk_rope_head_dim": 8},
            "DeepseekV2ForCausalLM has keys and values of different shapes",
        ),
        ("DiffLlama", {}, "DiffLlamaForCausalLM does not say which of its layers attends"),
        ("Doge", {}, "DogeForCausalLM makes its attention mask in a way of its own"),
        ("BioGpt", {}, "BioGptForCausalLM does not let its attention be replaced"),
        ("Nemotron", {}, "NemotronForCausalLM does not pass on to its attention what it is given"),
        (
            "Llama4Text",
            {"attention_chunk_size": 16, "layer_types": ["chunked_attention", "full_attention"], "head_dim": 8},
            "Llama4ForCausalLM has an attention mask that is neither causal nor a sliding window",
        ),
        (
            "Lfm2",
            {"layer_types": ["conv", "full_attention"]},
            "Lfm2ForCausalLM keeps a state that is no attention cache",
        ),
        ("Bert", {"is_decoder": False}, "BertLMHeadModel makes its attention mask in a way of its own"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_attention_of_another_kind_is_refused(tmp_path: Path, name: str, changes: dict[str, Any], problem: str) -> None:
    config = getattr(transformers, f"{name}Config")(**{**_SHAPE, **changes})
    _assert_refused(save_checkpoint(tmp_path / "model", config), problem)


def _module_of(config: Any) -> Any:
    return sys.modules[type(transformers.AutoModelForCausalLM.from_config(config)).__module__]


def test_an_attention_with_another_formula_is_refused(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ALiBi: scores get something added that no argument tells of."""
    module = _module_of(FAMILIES["llama"]())
    plain = module.eager_attention_forward

    def biased(layer: Any, q: Any, k: Any, v: Any, mask: Any, **arguments: Any) -> Any:
        return plain(layer, q, k, v, mask + 0.5 * torch.arange(k.shape[2]), **arguments)

    monkeypatch.setattr(module, "eager_attention_forward", biased)
    problem = "LlamaForCausalLM has an attention that is not the scaled product of queries and keys"
    _assert_refused(checkpoint("llama"), problem)


def test_a_model_that_mixes_neighbouring_tokens_is_refused(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As convolutions do: in a packed batch the neighbour may be another text's, or of a former step."""
    mlp = _module_of(FAMILIES["llama"]()).LlamaMLP
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: plain(self, x + x.roll(1, dims=1)))
    _assert_refused(checkpoint("llama"), "LlamaForCausalLM reads otherwise over a paged cache (logits differ by")


def test_a_model_that_cannot_be_run_is_refused(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr(_module_of(FAMILIES["llama"]()).LlamaMLP, "forward", fail)
    _assert_refused(checkpoint("llama"), "LlamaForCausalLM could not be run (ZeroDivisionError: no reason)")


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]())
    with torch.no_grad():
        model.model.norm.weight[3] = torch.inf
    folder = save_checkpoint(tmp_path / "model", FAMILIES["llama"]())
    model.save_pretrained(folder)
    _assert_refused(folder, "LlamaForCausalLM gives logits that are not numbers in float32")


_CAUSAL = masking_utils.causal_mask_function


@pytest.mark.parametrize("num_tokens", [2, 3, 40, 5000])
def test_windows_are_found_at_any_distance(num_tokens: int) -> None:
    assert _find_window(_CAUSAL, num_tokens) is None
    for window in {1, 2, num_tokens - 1, num_tokens, num_tokens + 1}:
        rule = masking_utils.sliding_window_causal_mask_function(window)
        assert _find_window(rule, num_tokens) == (window if window < num_tokens else None)


@pytest.mark.parametrize(
    "rule",
    [
        masking_utils.bidirectional_mask_function,
        masking_utils.sliding_window_bidirectional_mask_function(8),
        masking_utils.chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.int64)),
        masking_utils.and_masks(_CAUSAL, lambda batch, head, query, key: key != 7),
        masking_utils.or_masks(_CAUSAL, lambda batch, head, query, key: key < 3),
    ],
    ids=["all", "both sides", "chunks", "a hole", "a prefix"],
)
def test_other_masks_are_refused(rule: Callable[..., Any]) -> None:
    with pytest.raises(Unsupported, match="neither causal nor a sliding window"):
        _find_window(rule, 100)
