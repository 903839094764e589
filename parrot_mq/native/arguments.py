"""The arguments of a call: checked against the function, large ones fetched."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from parrot_mq.bus import Bus, fetch_text
from parrot_mq.errors import FunctionFailed
from parrot_mq.messages import BlobRef
from parrot_mq.program import NativeFunction

__all__ = ["check_arguments", "read_arguments"]


def check_arguments(function: NativeFunction[..., Any], names: Mapping[str, object]) -> None:
    """Make sure that a function can be called with arguments of these names.

    Raises:
        FunctionFailed: One is unknown, or missing.
    """
    spec = function.spec
    takes = ", ".join(f"`{name}`" for name in spec.separators) or "nothing"
    for name in names:
        if name not in spec.separators:
            close = difflib.get_close_matches(name, spec.separators, n=1)
            meant = f"did you mean `{close[0]}`? " if close else ""
            raise FunctionFailed(function=function.name, problem=f"unknown argument `{name}`; {meant}it takes {takes}")
    if missing := [name for name in spec.separators if name not in names and name not in spec.defaults]:
        listed = ", ".join(f"`{name}`" for name in missing)
        raise FunctionFailed(function=function.name, problem=f"missing argument: {listed}; it takes {takes}")


async def read_arguments(bus: Bus, tenant: str, arguments: Mapping[str, str | BlobRef]) -> dict[str, str]:
    """The texts of arguments.

    Raises:
        BlobMissing: A large one is not in the store.
        TransportError: The store cannot be read.
    """
    return {name: await fetch_text(bus, tenant, value) for name, value in arguments.items()}
