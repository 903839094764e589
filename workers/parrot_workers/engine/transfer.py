"""Arrays to the device, without waiting for what it is doing."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

__all__ = ["to_device"]


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to the device. To a GPU the copy is made in its turn, from memory of its own."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
