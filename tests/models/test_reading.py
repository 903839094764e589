"""Over the paged cache every family reads what it reads by transformers' own code."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.attention import AttentionBackend
from parrot_workers.attention.factory import create_backend
from parrot_workers.models import LoadedModel, load_model

from tests.models.packing import PackedReader
from tests.workers.checkpoints import FAMILIES, load_plain

_LENGTHS = (50, 33, 7, 1, 64)  # windows are 24, pages are 16
_LEAN = {
    *("llama", "qwen3", "mistral", "gemma2", "mixtral", "qwen2", "qwen3_moe", "gemma3", "phi3", "olmo2", "smollm3"),
    *("granite", "starcoder2", "exaone4"),
}


@pytest.fixture(scope="module")
def plain(checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """The oracle, by family."""
    return functools.cache(lambda family: load_plain(checkpoint(family)))


def _texts(seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(256) for _ in range(length)] for length in _LENGTHS]


def _expected(model: Any, text: list[int]) -> torch.Tensor:
    """Logits of all tokens, shape [num_tokens, vocab_size]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([text]), use_cache=False).logits[0]
    return logits


def _backend(name: str, model: LoadedModel) -> AttentionBackend:
    return create_backend(name, device=model.device, dtype=model.dtype, layers=model.layers)


def _read_in_chunks(model: LoadedModel, backend: str, texts: list[list[int]], *, seed: int) -> list[torch.Tensor]:
    """Logits of all tokens of each text, read in random chunks beside each other."""
    rng = random.Random(seed)
    reader = PackedReader(model, _backend(backend, model), num_texts=len(texts), max_tokens=max(map(len, texts)))
    rest, parts = [list(text) for text in texts], [list[torch.Tensor]() for _ in texts]
    while any(rest):
        texts_now = [text for text in range(len(texts)) if rest[text] and rng.random() < 0.7]
        chunks = []
        for text in texts_now:
            size = rng.choice([1, 5, 16, 40])
            chunks.append((text, rest[text][:size]))
            rest[text] = rest[text][size:]
        for text, logits in zip(texts_now, reader.read(chunks) if chunks else [], strict=True):
            parts[text].append(logits)
    return [torch.cat(part) for part in parts]


def _assert_close(found: torch.Tensor, expected: torch.Tensor, *, tolerance: float = 1e-4) -> None:
    error = (found - expected).abs().max() / expected.std()
    assert error < tolerance, f"logits differ by {error:.2g} of their deviation"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_ragged_chunks_give_the_logits_of_whole_texts(
    loaded: Callable[[str], LoadedModel], plain: Callable[[str], Any], family: str, backend: str
) -> None:
    texts = _texts()
    for found, text in zip(_read_in_chunks(loaded(family), backend, texts, seed=1), texts, strict=True):
        _assert_close(found, _expected(plain(family), text))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_fused_where_they_can_be(
    loaded: Callable[[str], LoadedModel], checkpoint: Callable[[str], Path], family: str
) -> None:
    kinds = {type(module).__name__ for module in loaded(family).model.modules()}
    assert ("LeanLayer" in kinds) == (family in _LEAN)
    assert "LeanLayer" not in {
        type(module).__name__ for module in load_model(checkpoint(family), is_fused=False).model.modules()
    }


@pytest.mark.parametrize("family", sorted(_LEAN))
def test_fused_layers_hold_each_weight_once(
    loaded: Callable[[str], LoadedModel], plain: Callable[[str], Any], family: str
) -> None:
    model, original = loaded(family), plain(family)
    assert model.num_parameters == sum(parameter.numel() for parameter in original.parameters())
    assert _num_bytes(model.model) <= _num_bytes(original) * 1.01 + 4096  # norms of heads are repeated per head


def _num_bytes(model: Any) -> int:
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    return sum(storages.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", sorted(_LEAN))
def test_fused_layers_in_half_types_are_as_near_to_float32_as_others(
    checkpoint: Callable[[str], Path], plain: Callable[[str], Any], family: str, dtype: torch.dtype
) -> None:
    texts = _texts()[1:2]
    expected = _expected(plain(family), texts[0])
    errors = []
    for is_fused in (True, False):
        model = load_model(checkpoint(family), dtype=dtype, is_fused=is_fused)
        found = _read_in_chunks(model, "reference", texts, seed=2)[0].float()
        errors.append(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median())
    assert errors[0] < 1.5 * errors[1] + 0.01


def test_only_the_wanted_rows_have_logits(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("llama")
    whole = _read_in_chunks(model, "reference", [[1, 2, 3]], seed=0)[0]
    assert whole.shape == (3, 264)
    assert whole.dtype == model.dtype


def test_windows_and_softcaps_are_learnt(loaded: Callable[[str], LoadedModel]) -> None:
    assert [layer.window for layer in loaded("gemma2").layers] == [24, None]
    assert [layer.softcap for layer in loaded("gemma2").layers] == [50.0, 50.0]
    assert [layer.scale for layer in loaded("gemma3").layers] == [0.5, 0.5]
    assert [layer.window for layer in loaded("qwen2").layers] == [24, None]
    assert loaded("granite").layers[0].scale == 0.3
    assert {layer.num_kv_heads for layer in loaded("gpt2").layers} == {4}
    assert {(layer.num_qo_heads, layer.num_kv_heads, layer.head_dim) for layer in loaded("llama").layers} == {(4, 2, 8)}


def test_two_models_run_side_by_side(loaded: Callable[[str], LoadedModel], plain: Callable[[str], Any]) -> None:
    """The context travels as an argument, so nothing of one model's step is seen by another's."""
    text = _texts()[2]
    readers = {
        family: PackedReader(loaded(family), _backend("reference", loaded(family)), num_texts=1, max_tokens=16)
        for family in ("llama", "gemma2")
    }
    for position, token in enumerate(text):
        for family, reader in readers.items():
            logits = reader.read([(0, [token])])[0]
            _assert_close(logits[0], _expected(plain(family), text)[position])


def test_a_layer_spec_is_obeyed(loaded: Callable[[str], LoadedModel], plain: Callable[[str], Any]) -> None:
    """What was learnt decides, not what a layer says when it runs."""
    model = loaded("llama")
    narrow = replace(model, layers=tuple(replace(layer, window=1) for layer in model.layers))
    found = _read_in_chunks(narrow, "reference", [_texts()[2]], seed=0)[0]
    assert (found - _expected(plain("llama"), _texts()[2])).abs().max() > 0.1
