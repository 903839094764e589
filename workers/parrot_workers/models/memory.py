"""Keep a model in memory once while its weights are read, joined and packed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from parrot_workers.models.extra import import_extra

__all__ = ["give_back", "weights_apart"]


@contextmanager
def weights_apart() -> Iterator[None]:
    """Let transformers read each weight into memory of its own, to be freed by itself.

    By default weights are views into the mapped file, and one of them keeps all of it: whatever replaces the others,
    joined or packed, comes on top. Older versions of safetensors know no other way than that; they keep it.
    """
    modeling: Any = import_extra("transformers.modeling_utils")
    safe_open = getattr(modeling, "safe_open", None)
    if safe_open is None:
        yield
        return

    def open_apart(*args: Any, **kwargs: Any) -> Any:
        try:
            return safe_open(*args, **{**kwargs, "backend": "pread"})
        except TypeError:
            return safe_open(*args, **kwargs)

    modeling.safe_open = open_apart
    try:
        yield
    finally:
        modeling.safe_open = safe_open


def give_back() -> None:
    """Return freed memory to the system. glibc keeps what was freed in pieces of up to 32 MB, as weights are."""
    _malloc_trim()(0)


@cache
def _malloc_trim() -> Callable[[int], object]:
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
