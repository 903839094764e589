"""Kernels for a CPU, compiled for the machine at the first start. Importing this package imports torch."""

from parrot_workers.cpu_kernels.kernels import HEAD_DIMS, MAX_GROUP, CpuKernels, load_kernels

__all__ = ["HEAD_DIMS", "MAX_GROUP", "CpuKernels", "load_kernels"]
