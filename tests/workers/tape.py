"""What stands for a CUDA graph on a CPU: a tape of the operators that ran, to be run again on the same tensors.

Like a graph it knows no Python: what was decided while it was recorded stays decided, and what was read from a tensor
is read again from the memory of that tensor. Waiting for the device cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
_INDEXES = {"index", "index_put", "index_put_"}


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records all operators that run in its `with` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in _WAITS or (name in _INDEXES and _has_mask(args[1])):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    @torch.inference_mode()
    def replay(self) -> None:
        """Run all of it again; every result lands where it was the first time."""
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _has_mask(indices: Any) -> bool:
    """A mask as an index is as many indices as it holds ones: the host waits for the number."""
    return any(index is not None and index.dtype == torch.bool for index in indices)


@contextmanager
def operators_only() -> Iterator[None]:
    """Models that are loaded in this block run by operators of torch alone: a tape hears no compiled kernels."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("models.fusing", "models.packed_linear", "models.whole_layer", "attention.cpu.backend"):
            patch.setattr(f"parrot_workers.{module}.load_kernels", lambda dtype: None)
        yield


class TapeRecorder:
    """A `Recorder` that makes tapes."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        with Tape() as tape:
            function()
        replay: Callable[[], None] = tape.replay
        return replay
