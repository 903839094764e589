"""The point where an attention backend is chosen, and torch or FlashInfer is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from parrot_mq.errors import ConfigurationError
from parrot_workers.attention.base import AttentionBackend

if TYPE_CHECKING:
    import torch

__all__ = ["LayerHeads", "create_backend"]


class LayerHeads(Protocol):
    """The part of a layer's description that a backend may refuse."""

    @property
    def num_qo_heads(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...


def create_backend(
    name: str, *, device: torch.device, layers: Sequence[LayerHeads], dtype: torch.dtype | None = None
) -> AttentionBackend:
    """Make an attention backend.

    Args:
        name: `auto` (FlashInfer on a GPU, else `cpu`), `reference` (slow, exact, any device), `cpu` or `flashinfer`.
        device: Where the model is.
        layers: Its attention.
        dtype: Of its keys and values; if none, a type that the backend does not know is refused by its first run.

    Raises:
        ConfigurationError: There is no such backend, or it does not run here, or not with these layers.
    """
    if name == "auto":
        name = "flashinfer" if device.type == "cuda" else "cpu"
    if name == "flashinfer":
        return _create_flashinfer(device, layers, dtype)
    if name == "cpu":
        from parrot_workers.attention.cpu import CPUBackend

        _require(device, "cpu", name)
        return CPUBackend()
    if name == "reference":
        from parrot_workers.attention.reference import ReferenceBackend

        return ReferenceBackend()
    raise ConfigurationError(
        f"there is no attention backend {name!r}: use auto, reference, cpu or flashinfer", setting="attention"
    )


def _create_flashinfer(
    device: torch.device, layers: Sequence[LayerHeads], dtype: torch.dtype | None
) -> AttentionBackend:
    from parrot_workers.attention.flashinfer import DTYPES, FlashInferBackend, check_layer

    _require(device, "cuda", "flashinfer")
    for layer in layers:
        check_layer(
            num_qo_heads=layer.num_qo_heads,
            num_kv_heads=layer.num_kv_heads,
            head_dim=layer.head_dim,
            dtype=dtype or DTYPES[0],
        )
    try:
        return FlashInferBackend(device)
    except ImportError as error:
        sentence = f"a worker on a GPU needs {error.name}: install it with `pip install 'parrot-mq[gpu]'`"
        raise ConfigurationError(sentence, setting="attention") from error


def _require(device: torch.device, kind: str, name: str) -> None:
    if device.type != kind:
        sentence = f"the attention backend {name!r} runs on a device of kind {kind!r}, and the model is on {device}"
        raise ConfigurationError(f"{sentence}: set attention to 'auto' or 'reference'", setting="attention")
