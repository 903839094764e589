"""Attention on a CPU. Importing this package imports torch."""

from parrot_workers.attention.cpu.backend import CPUBackend

__all__ = ["CPUBackend"]
