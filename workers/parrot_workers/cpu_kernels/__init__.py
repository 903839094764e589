"""Kernels for a CPU, compiled for the machine at the first start. Importing this package imports torch."""

from parrot_workers.cpu_kernels.blocked import find_block
from parrot_workers.cpu_kernels.kernels import (
    HEAD_DIMS,
    MAX_GROUP,
    CpuKernels,
    LayerStruct,
    RowUnits,
    WeightStruct,
    load_kernels,
)

__all__ = [
    "HEAD_DIMS",
    "MAX_GROUP",
    "CpuKernels",
    "LayerStruct",
    "RowUnits",
    "WeightStruct",
    "find_block",
    "load_kernels",
]
