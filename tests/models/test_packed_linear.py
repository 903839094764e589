"""Packed projections give what plain ones give, and take their place in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.cpu_kernels import load_kernels
from parrot_workers.models import load_model, packed_linear
from parrot_workers.models.packed_linear import BlockedLinear, PackedLinear, pack_linears
from torch import nn

from tests.models.packing import PackedReader, choose_products
from tests.workers.checkpoints import FAMILIES

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights are packed, too."""
    monkeypatch.setattr(packed_linear, "_MIN_FLOAT32_ELEMENTS", 0)
    monkeypatch.setattr(packed_linear, "_MAX_COPIED_SHARE", 1.0)


@pytest.fixture(autouse=True, params=["ours", "onednn"])
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose products: where ours cannot run, and where they can."""
    choose_products(request.param, monkeypatch)


def _packed(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, BlockedLinear | PackedLinear)}


class _Model(nn.Module):
    """As much of a model as packing looks at."""

    def __init__(self, vocab_size: int, hidden_size: int, *, is_tied: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.device, self.dtype = torch.device("cpu"), dtype
        self.embed = nn.Embedding(vocab_size, hidden_size, dtype=dtype)
        self.up = nn.Linear(hidden_size, 2000, dtype=dtype)
        self.head = nn.Linear(hidden_size, vocab_size, bias=False, dtype=dtype)
        if is_tied:
            self.head.weight = self.embed.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 48), (1, 48), (5, 48), (300, 48), (1, 7, 48)], ids=str)
def test_a_packed_layer_gives_what_the_plain_one_gives(
    shape: tuple[int, ...], has_bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 40, bias=has_bias, dtype=dtype)
    x = torch.randn(shape).to(dtype)
    with torch.inference_mode():
        found = PackedLinear(plain.weight.detach(), plain.bias.detach() if has_bias else None)(x)
        assert found.shape == (*shape[:-1], 40)
        assert found.dtype == dtype
        torch.testing.assert_close(found, plain(x))


def test_rows_that_are_not_contiguous_are_taken() -> None:
    plain, x = nn.Linear(48, 40, bias=False), torch.randn(5, 96)[:, ::2]
    torch.testing.assert_close(PackedLinear(plain.weight.detach(), None)(x), plain(x).detach())


@pytest.mark.usefixtures("packs_all")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_model_reads_what_a_plain_one_reads(checkpoint: Callable[[str], Path], family: str) -> None:
    logits = []
    for is_packed in (True, False):
        model = load_model(checkpoint(family), is_packed=is_packed)
        assert bool(_packed(model.model)) == is_packed
        reader = PackedReader(model, ReferenceBackend(), num_texts=1, max_tokens=32)
        logits.append(reader.read([(0, list(range(100, 130)))])[0])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_small_weights_stay_plain_in_float32() -> None:
    """There the call itself costs more than the layout wins."""
    model = _Model(1000, 16, is_tied=False)
    assert pack_linears(model) == 0
    model = _Model(1000, 16, is_tied=False, dtype=torch.bfloat16)
    assert pack_linears(model) == 2


def test_a_tied_head_is_packed_only_if_the_copy_is_small() -> None:
    assert _pack(_Model(1000, 1000, is_tied=True)) == {"up"}
    assert _pack(_Model(600, 1000, is_tied=False)) == {"up", "head"}


def test_a_tied_head_that_is_packed_leaves_the_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_MAX_COPIED_SHARE", 0.5)
    model = _Model(1000, 1000, is_tied=True)
    before = model.embed.weight.detach().clone()
    assert _pack(model) == {"up", "head"}
    torch.testing.assert_close(model.embed.weight.detach(), before)


def _pack(model: Any) -> set[str]:
    pack_linears(model)
    return _packed(model)


def test_plain_weights_go_as_packed_ones_come() -> None:
    """So that a model is never in memory twice."""
    model = _Model(1000, 1000, is_tied=False)
    plain = [weakref.ref(model.up), weakref.ref(model.head)]
    alive: list[int] = []

    def count(stage: str, fraction: float) -> None:
        alive.append(sum(linear() is not None for linear in plain))

    assert pack_linears(model, count) == 2
    assert alive == [2, 1]
    assert [linear() for linear in plain] == [None, None]


def test_a_layer_whose_packed_form_is_wrong_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: x @ torch.zeros(1000, self.weight.shape[0]))
    assert pack_linears(_Model(1000, 1000, is_tied=False)) == 0


def test_models_elsewhere_stay_as_they_are() -> None:
    model = _Model(1000, 1000, is_tied=False)
    model.device = torch.device("cuda")
    assert pack_linears(model) == 0


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    pack_linears(_Model(1000, 1000, is_tied=False), lambda stage, fraction: told.append((stage, fraction)))
    assert told == [("pack weights", 0.5), ("pack weights", 1.0)]


# -- ours ------------------------------------------------------------------------------------------------------------


def _blocked(weight: torch.Tensor, bias: torch.Tensor | None) -> BlockedLinear:
    kernels = load_kernels(weight.dtype)
    if kernels is None or not kernels.can_multiply:
        pytest.skip("this processor has no tiles")
    return BlockedLinear(kernels, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [0, 1, 12, 13, 31, 48, 49, 64, 65, 300, 600])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(32, 32), (96, 160), (1344, 64)])
def test_our_products_are_as_exact_as_the_type_allows(
    dtype: torch.dtype, num_rows: int, num_inputs: int, num_outputs: int
) -> None:
    """However many rows there are, and whichever way they are multiplied."""
    generator = torch.Generator().manual_seed(num_rows)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((num_rows, num_inputs), (num_outputs, num_inputs), (num_outputs,))
    )
    linear = _blocked(weight, bias)
    exact = x.double() @ weight.double().T + bias.double()
    for _ in range(2):
        found = linear(x)
        assert found.dtype == dtype
        error = (found.double() - exact).norm()
        # Sums in float32 take a step of rounding for each product; results are rounded once.
        assert error <= torch.finfo(dtype).eps * exact.norm() + 4e-8 * num_inputs**0.5 * exact.norm()
        if num_outputs % 64 == 0:
            linear.pair()


def test_our_float32_products_are_no_worse_than_those_of_torch() -> None:
    """Three parts of 8 bits each are all of a float32: numbers of very different sizes keep their last bits."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(64, 2048, generator=generator) for _ in range(2))
    x *= torch.logspace(-12, 12, 2048)
    weight *= torch.logspace(12, -12, 2048)
    exact = x.double() @ weight.double().T
    ours, plain = (_blocked(weight, None)(x).double() - exact).norm(), ((x @ weight.T).double() - exact).norm()
    assert ours <= 2 * plain


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [3, 100])
def test_what_is_not_a_number_stays_in_its_row(dtype: torch.dtype, num_rows: int) -> None:
    x = torch.ones(num_rows, 64, dtype=dtype)
    x[1, 7] = float("nan")
    found = _blocked(torch.ones(32, 64, dtype=dtype), None)(x)
    assert found[1].isnan().all()
    assert (found[[0, *range(2, num_rows)]] == 64).all()
