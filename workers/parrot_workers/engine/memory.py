"""How many pages the memory has room for."""

from __future__ import annotations

import os

import torch

from parrot_workers.config import EngineConfig
from parrot_workers.kv_cache.pool import LayerShape, page_bytes
from parrot_workers.models import LoadedModel

__all__ = ["choose_num_pages", "layer_shapes"]

_GPU_FRACTION = 0.9
_CPU_FRACTION = 0.25


def layer_shapes(model: LoadedModel) -> list[LayerShape]:
    """Heads and head size of each layer's keys and values."""
    return [LayerShape(layer.num_kv_heads, layer.head_dim) for layer in model.layers]


def choose_num_pages(model: LoadedModel, config: EngineConfig, *, working_bytes: int = 0) -> int:
    """Pages of the cache, the dummy page counted.

    Args:
        model: Loaded already, so that a GPU's free memory is what is left beside it.
        config: `cache_tokens`, or else `memory_fraction`, and never more than all slots can fill.
        working_bytes: What a step needs beside weights and cache.
    """
    if config.cache_tokens:
        return -(-config.cache_tokens // config.page_size) + 1
    bytes_each = page_bytes(layer_shapes(model), config.page_size, model.dtype)
    longest = model.limit_context(config.max_context_tokens)
    # Twice what can run: the other half remembers what ran before.
    useful = 2 * config.num_slots * (-(-longest // config.page_size) + 1)
    return max(2, min(useful, (_free_bytes(model.device, config) - working_bytes) // bytes_each)) + 1


def _free_bytes(device: torch.device, config: EngineConfig) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * (config.memory_fraction or _GPU_FRACTION))
    # NOTE: a pool of zeros takes memory of a CPU only where something was written.
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total * (config.memory_fraction or _CPU_FRACTION))
