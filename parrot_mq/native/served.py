"""One call at its host, and the functions that a host may serve together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import NativeCall
from parrot_mq.native.statistics import ServedCounts
from parrot_mq.observability import TraceContext
from parrot_mq.program import NativeFunction

__all__ = ["Served", "ServedCall", "by_name"]


@dataclass(frozen=True, slots=True)
class Served:
    """A function, and what was counted of its calls."""

    function: NativeFunction[..., Any]
    counts: ServedCounts = field(default_factory=ServedCounts)


@dataclass(slots=True, eq=False)
class ServedCall:
    """A call that a host has taken.

    Attributes:
        served: What is called.
        message: The call as it came.
        reply: Where the answer goes.
        inbox: Where the caller says that it wants none.
        trace: Where it belongs in a trace.
        task: Runs it.
        is_unwanted: The caller has said so.
    """

    served: Served
    message: NativeCall
    reply: str
    inbox: str
    trace: TraceContext | None = None
    task: asyncio.Task[None] | None = None
    is_unwanted: bool = False

    @property
    def function(self) -> NativeFunction[..., Any]:
        """What is called."""
        return self.served.function

    @property
    def counts(self) -> ServedCounts:
        """What was counted of the function's calls."""
        return self.served.counts

    def cancel(self) -> None:
        """Let it go no further."""
        if self.task is not None:
            self.task.cancel()


def by_name(functions: Iterable[NativeFunction[..., Any]]) -> dict[str, Served]:
    """The functions by their names on the server.

    Raises:
        ConfigurationError: There is none, or one is no native function, or two have one name.
    """
    served: dict[str, Served] = {}
    for each in functions:
        if not isinstance(each, NativeFunction):
            raise ConfigurationError(f"{each!r} cannot be served: decorate it with `@native_function`")
        known = served.setdefault(each.name, Served(each))
        if known.function.function is not each.function:
            raise ConfigurationError(f"two functions are called {each.name!r}; give one another name: `name=…`")
    if not served:
        raise ConfigurationError("there is no function to serve; decorate one with `@native_function`")
    return served
