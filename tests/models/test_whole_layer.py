"""A layer in one call gives what its parts give; steps and layers that it is not for go the usual way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as untyped_transformers
from parrot_workers.attention.cpu import CPUBackend
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.cpu_kernels import CpuKernels, RowUnits, find_block, load_kernels
from parrot_workers.models import LoadedModel, load_model, packed_linear
from parrot_workers.models.lean_layer import LeanLayer

from tests.models.packing import PackedReader, choose_products
from tests.workers.checkpoints import byte_tokenizer

transformers: Any = untyped_transformers
pytestmark = [
    pytest.mark.skipif(load_kernels(torch.float32) is None, reason="no C++ compiler"),
    pytest.mark.skipif(not torch._C._has_mkldnn, reason="this torch has no oneDNN"),
]
SHAPE: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"attention_bias": True}),
    "qwen2": ("Qwen2Config", {}),  # has biases
    "qwen3": ("Qwen3Config", {}),  # has a norm of each head
    "mistral": ("MistralConfig", {"sliding_window": 9}),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0]}),
}


@pytest.fixture(autouse=True, params=["ours", "onednn"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose products: where ours cannot run, and where they can."""
    choose_products(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], LoadedModel]:
    """Load a random model of a family, small as it is with packed weights."""
    monkeypatch.setattr(packed_linear, "_MIN_FLOAT32_ELEMENTS", 0)

    def load_one(family: str, dtype: str) -> LoadedModel:
        name, changes = CONFIGS[family]
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**SHAPE, **changes}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms, too
        model.save_pretrained(tmp_path)
        byte_tokenizer().save_pretrained(tmp_path)
        return load_model(tmp_path, device="cpu", dtype=dtype)

    return load_one


def _layers(model: LoadedModel) -> list[LeanLayer]:
    return [module for module in model.model.modules() if isinstance(module, LeanLayer)]


def _read(model: LoadedModel) -> list[torch.Tensor]:
    """Logits of two texts that are read in one step, and then go on a token at a time: together, and one alone."""
    reader = PackedReader(model, CPUBackend(), num_texts=2, max_tokens=64)
    texts = [list(range(20, 50)), list(range(90, 107))]
    logits = reader.read(list(enumerate(texts)))
    for token in range(5):
        logits += reader.read([(0, [token]), (1, [token + 7])])
        logits += reader.read([(1, [token + 9])])
    return logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_layer_in_one_call(load: Callable[[str, str], LoadedModel], family: str, dtype: str) -> None:
    model = load(family, dtype)
    layers = _layers(model)
    wholes = [layer.whole for layer in layers]
    if dtype == "bfloat16" and None in wholes:
        pytest.skip("this processor's weights lie in another way")
    assert len(wholes) == 2
    assert None not in wholes
    found = _read(model)
    for layer in layers:
        layer.whole = None
    rounding = 8 * torch.finfo(model.dtype).eps
    for one, other in zip(found, _read(model), strict=True):
        assert (one - other).float().norm() <= 4 * rounding * other.float().norm()


def test_it_is_one_call_for_few_rows_that_share_nothing(
    load: Callable[[str, str], LoadedModel], products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For others it is two, one before attention and one after it, if the products are ours."""
    model = load("llama", "float32")
    calls: list[int] = []

    many: list[int] = []

    run_layers = CpuKernels.run_layers

    def spy(kernels: CpuKernels, layers: Any, x: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        (calls if isinstance(others[-1], RowUnits) else many).append(len(x))
        return run_layers(kernels, layers, x, *others, **options)

    monkeypatch.setattr(CpuKernels, "run_layers", spy)
    reader = PackedReader(model, CPUBackend(), num_texts=3, max_tokens=64)
    reader.read([(0, [1, 2]), (1, [3]), (2, [4])])
    reader.read([(0, [1]), (1, [3]), (2, [4])])
    reader.read([(0, [1, 2])])  # the second token reads the first
    assert calls == []
    assert many == ([4, 3, 2] if products == "ours" else [])
    reader.read([(0, [1]), (1, [3])])
    once = [2] if products == "ours" else [2, 2]  # for both layers, or for each
    assert calls == once
    other = PackedReader(model, ReferenceBackend(), num_texts=1, max_tokens=64)
    other.read([(0, [1])])  # a backend that cannot say what a row reads
    assert calls == once


def test_weights_that_lie_in_another_way_are_not_taken_for_blocks() -> None:
    weight = torch.randn(128, 64)
    assert find_block(weight, weight.data_ptr(), weight.numel() * 4) is None
    blocked = weight.view(2, 64, 64).transpose(1, 2).contiguous()
    assert find_block(weight, blocked.data_ptr(), blocked.numel() * 4) == 64
    assert find_block(weight, blocked.data_ptr(), blocked.numel() * 4 + 64) is None
    halves = weight.to(torch.bfloat16)
    blocked = halves.view(4, 32, 32, 2).transpose(1, 2).contiguous()
    assert find_block(halves, blocked.data_ptr(), blocked.numel() * 2) == 32


def test_a_weight_without_differences_tells_nothing() -> None:
    weight = torch.ones(128, 64)
    assert find_block(weight, weight.data_ptr(), weight.numel() * 4) is None
