"""A lean layer takes a layer's place only where it gives what the layer gives."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.models import LoadedModel, load_model
from parrot_workers.models.lean_layer import ForeignMlp, GatedMlp, HeadNorm, LeanLayer, RmsNorm, TwoNorms
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.packing import PackedReader
from tests.workers.checkpoints import FAMILIES, load_plain, transformers

_TEXT = [int(token) for token in torch.randint(256, (30,), generator=torch.Generator().manual_seed(0))]


def _layers(model: LoadedModel) -> list[Any]:
    return list(model.model.base_model.layers)


def _are_lean(model: LoadedModel) -> list[bool]:
    return [isinstance(layer, LeanLayer) for layer in _layers(model)]


def _read(model: LoadedModel) -> torch.Tensor:
    return PackedReader(model, ReferenceBackend(), num_texts=1, max_tokens=32).read([(0, _TEXT)])[0]


def _read_plain(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([_TEXT]), use_cache=False).logits[0]
    return logits


def _decoder_layer(family: str) -> Any:
    return type(transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).base_model.layers[0])


def _code_of(layer: Any) -> Any:
    return sys.modules[layer.__module__]


@pytest.mark.parametrize(
    ("family", "norm", "head_norm", "mlp"),
    [
        ("llama", RmsNorm, type(None), GatedMlp),
        ("qwen3", RmsNorm, HeadNorm, GatedMlp),
        ("gemma3", RmsNorm, HeadNorm, GatedMlp),
        ("olmo2", type(None), TwoNorms, GatedMlp),
        ("phi3", RmsNorm, type(None), GatedMlp),
        ("mixtral", RmsNorm, type(None), ForeignMlp),
    ],
)
def test_parts_are_seen(
    loaded: Callable[[str], LoadedModel], family: str, norm: type, head_norm: type, mlp: type
) -> None:
    layer = _layers(loaded(family))[0]
    found = type(layer.before_attention), type(layer.attention.head_norm), type(layer.mlp)
    assert found == (norm, head_norm, mlp)


def test_layers_that_know_no_positions_are_seen(loaded: Callable[[str], LoadedModel]) -> None:
    assert [layer.attention.is_rotated for layer in _layers(loaded("smollm3"))] == [True, False]


def test_another_wiring_of_the_same_parts_is_left_alone(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _decoder_layer("llama")

    def parallel(self: Any, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended = self.self_attn(hidden_states=self.input_layernorm(x), **kwargs)[0]
        out: torch.Tensor = x + attended + self.mlp(self.post_attention_layernorm(x))
        return out

    monkeypatch.setattr(layer, "forward", parallel)
    model = load_model(checkpoint("llama"))
    assert _are_lean(model) == [False, False]
    torch.testing.assert_close(_read(model), _read_plain(load_plain(checkpoint("llama"))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("odd", [0, 1])
def test_each_layer_is_judged_by_itself(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    """One layer of a model may differ from the others by nothing but a number."""
    layer = _decoder_layer("llama")
    plain, init = layer.forward, layer.__init__

    def make(self: Any, config: Any, layer_idx: int) -> None:
        init(self, config, layer_idx)
        self.gain = 2.0 if layer_idx == odd else 1.0

    monkeypatch.setattr(layer, "__init__", make)
    monkeypatch.setattr(layer, "forward", lambda self, x, **kwargs: plain(self, x, **kwargs) * self.gain)
    model = load_model(checkpoint("llama"))
    assert _are_lean(model) == [odd != 0, odd != 1]
    torch.testing.assert_close(_read(model), _read_plain(load_plain(checkpoint("llama"))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_hides_no_wrong_wiring(checkpoint: Callable[[str], Path], dtype: torch.dtype) -> None:
    """NanoChat norms queries and keys after the rotation, each head by itself: nearly the same in a half type."""
    assert _are_lean(load_model(checkpoint("nanochat"), dtype=dtype)) == [False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "olmo2", "phi3", "exaone4", "starcoder2"])
def test_half_types_are_fused_as_well(checkpoint: Callable[[str], Path], family: str, dtype: torch.dtype) -> None:
    assert _are_lean(load_model(checkpoint(family), dtype=dtype)) == [True, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_with_one_plus_weight_stays_exact_in_half_types(
    checkpoint: Callable[[str], Path], dtype: torch.dtype
) -> None:
    layer = _layers(load_model(checkpoint("gemma2"), dtype=dtype))[0]
    assert isinstance(layer, LeanLayer)
    assert type(layer.before_attention).__name__ == "Gemma2RMSNorm"


def test_biases_are_joined(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Those of a random checkpoint are zero; here they are not."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint("qwen2"))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(checkpoint("qwen2")).save_pretrained(folder)
    fused = load_model(folder)
    assert _are_lean(fused) == [True, True]
    torch.testing.assert_close(_read(fused), _read_plain(load_plain(folder)), rtol=1e-4, atol=1e-4)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes down the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class _IdleBackend:
    """Attends to nothing."""

    def plan(self, plan: Any) -> None:
        pass

    def run(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, **_: Any) -> torch.Tensor:
        return q.contiguous()


_WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "item", "unique"}


def _operations(model: LoadedModel) -> list[str]:
    reader = PackedReader(model, _IdleBackend(), num_texts=1, max_tokens=32)
    recorder = _Recorder()
    with recorder:
        reader.read([(0, _TEXT)])
    return recorder.names


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen2", "mistral", "gemma2", "gemma3", "phi3", "smollm3"])
def test_nothing_in_a_forward_pass_waits_for_the_device(loaded: Callable[[str], LoadedModel], family: str) -> None:
    """So that it can be captured in a CUDA graph."""
    assert not _WAITING & set(_operations(loaded(family)))


def test_a_lean_layer_takes_few_operations(
    loaded: Callable[[str], LoadedModel], checkpoint: Callable[[str], Path]
) -> None:
    fused, plain = (
        [name for name in _operations(model) if name not in ("view", "t", "slice", "transpose", "unsqueeze", "select")]
        for model in (loaded("qwen3"), load_model(checkpoint("qwen3"), is_fused=False))
    )
    assert len(fused) < 0.75 * len(plain)
