"""The tensors of the cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.kv_cache import PageCopy
from parrot_workers.kv_cache.pool import KVPool, LayerShape, page_bytes

LAYERS = (LayerShape(2, 4), LayerShape(1, 8))


def _pool(num_pages: int = 6, *, dtype: torch.dtype = torch.float32) -> KVPool:
    return KVPool(LAYERS, num_pages=num_pages, page_size=3, dtype=dtype, device="cpu")


def _fill(pool: KVPool) -> None:
    """Every page of every tensor holds its own number, K and V of every layer in another hundred."""
    for layer in range(len(LAYERS)):
        for hundred, tensor in ((2 * layer, pool.keys(layer)), (2 * layer + 1, pool.values(layer))):
            tensor.copy_((100.0 * hundred + torch.arange(pool.num_pages)).view(-1, 1, 1, 1))


def test_a_new_pool_is_zero() -> None:
    """What lies behind the last token of a sequence is multiplied by 0, which does not help against a NaN."""
    pool = _pool()
    assert not any(tensor.any() for layer in range(2) for tensor in (pool.keys(layer), pool.values(layer)))


def test_layers_may_differ() -> None:
    pool = _pool(dtype=torch.bfloat16)
    assert pool.keys(0).shape == (6, 3, 2, 4)
    assert pool.values(1).shape == (6, 3, 1, 8)
    assert pool.keys(1).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_size_of_a_page_is_known_beforehand(dtype: torch.dtype) -> None:
    pool = _pool(dtype=dtype)
    num_bytes = sum(tensor.nbytes for layer in range(2) for tensor in (pool.keys(layer), pool.values(layer)))
    assert pool.bytes_per_page == page_bytes(LAYERS, 3, dtype) == num_bytes // 6


def test_rows_are_written_to_their_slots() -> None:
    pool = _pool()
    k, v = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    pool.write(0, torch.tensor([5, 3, 17]), k, v)
    assert torch.equal(pool.keys(0)[1], torch.stack((k[1], torch.zeros(2, 4), k[0])))
    assert torch.equal(pool.values(0)[5, 2], v[2])
    assert not pool.keys(1).any()
    assert pool.keys(0).count_nonzero() == k.count_nonzero()


def test_no_copies_are_no_work() -> None:
    _pool().copy([])


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=8))
def test_copies_are_made_as_if_one_after_another(pairs: list[tuple[int, int]]) -> None:
    """A page may be copied to, copied from, given away and copied to again before the next forward pass."""
    pool = _pool()
    _fill(pool)
    expected = list(range(6))
    for source, target in pairs:
        expected[target] = expected[source]
    pool.copy([PageCopy(source, target, 3) for source, target in pairs])
    for layer in range(2):
        for hundred, tensor in ((2 * layer, pool.keys(layer)), (2 * layer + 1, pool.values(layer))):
            numbers = 100.0 * hundred + torch.tensor(expected)
            assert torch.equal(tensor, numbers.view(-1, 1, 1, 1).expand_as(tensor))
