"""A short pass gives the logits that the model gives; a model that does anything else around its layers has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from parrot_workers.attention.cpu import CPUBackend
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.cpu_kernels import load_kernels
from parrot_workers.models import LoadedModel

from tests.models.packing import PackedReader, choose_products
from tests.models.test_whole_layer import CONFIGS, load

__all__ = ["load"]

pytestmark = pytest.mark.skipif(load_kernels(torch.float32) is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_products("ours", monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "smollm3"])
def test_it_gives_what_the_model_gives(load: Callable[[str, str], LoadedModel], family: str, dtype: str) -> None:
    model = load(family, dtype)
    short = model.short_pass
    assert short is not None
    texts = [list(range(20, 60)), list(range(90, 107))]
    steps = [[(0, texts[0]), (1, texts[1])], [(0, [5]), (1, [6])], [(1, [7])], [(0, [1, 2, 3])]]
    reader = PackedReader(model, CPUBackend(), num_texts=2, max_tokens=64)
    before = short.num_runs
    found = [logits for step in steps for logits in reader.read(step)]
    assert short.num_runs == before + len(steps)
    other = PackedReader(model, ReferenceBackend(), num_texts=2, max_tokens=64)  # for which it has to ask the model
    expected = [logits for step in steps for logits in other.read(step)]
    assert short.num_runs == before + len(steps)
    for one, reference in zip(found, expected, strict=True):
        assert (one - reference).float().norm() <= 40 * torch.finfo(model.dtype).eps * reference.float().norm()


def test_windows_that_differ_are_left_to_the_model(load: Callable[[str, str], LoadedModel]) -> None:
    """While no text is longer than a window, all layers see all; then they do not."""
    model = load("mistral", "float32")
    model = replace(model, layers=(model.layers[0], replace(model.layers[1], window=None)))
    short = model.short_pass
    assert short is not None
    reader = PackedReader(model, CPUBackend(), num_texts=1, max_tokens=64)
    before = short.num_runs
    reader.read([(0, [1, 2, 3])])
    assert short.num_runs == before + 1
    reader.read([(0, list(range(20, 40)))])
    assert short.num_runs == before + 1


@pytest.mark.parametrize("change", ["embedding_multiplier", "logits_scaling", None])
def test_models_that_do_more_around_their_layers_have_none(
    load: Callable[[str, str], LoadedModel], monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    plain = {
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 0.25,
    }
    monkeypatch.setitem(CONFIGS, "granite", ("GraniteConfig", plain if change is None else {**plain, change: 1.25}))
    model = load("granite", "float32")
    assert all(layer.whole is not None for layer in model.model.model.layers)
    assert (model.short_pass is None) == (change is not None)
