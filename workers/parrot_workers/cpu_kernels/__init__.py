"""Kernels for a CPU, compiled for the machine at the first start. Importing this package imports torch."""

from parrot_workers.cpu_kernels.blocked import BLOCK, find_block, to_blocks
from parrot_workers.cpu_kernels.kernels import (
    HEAD_DIMS,
    MAX_GROUP,
    CpuKernels,
    LayerCaches,
    LayerStruct,
    Levels,
    PagedLevel,
    RowUnits,
    WeightStruct,
    load_kernels,
)

__all__ = [
    "BLOCK",
    "HEAD_DIMS",
    "MAX_GROUP",
    "CpuKernels",
    "LayerCaches",
    "LayerStruct",
    "Levels",
    "PagedLevel",
    "RowUnits",
    "WeightStruct",
    "find_block",
    "load_kernels",
    "to_blocks",
]
