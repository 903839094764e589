"""The functions that a command line names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parrot_mq.errors import ConfigurationError
from parrot_mq.loading import find_in, load_module
from parrot_mq.native.served import by_name
from parrot_mq.program import NativeFunction

__all__ = ["load_functions"]

_MAKE_ONE = "decorate a function with `@native_function`"


def load_functions(*targets: str) -> list[NativeFunction[..., Any]]:
    """The native functions of all targets: `module`, `FILE.py`, `module:name` or `FILE.py:name`.

    A name is that of a function, or of a list of functions; without one, all functions of the module are meant, also
    those that it imports.

    Raises:
        ConfigurationError: A target has none, and the message says what there is; or two functions have one name.
    """
    found = [function for target in targets for function in _load(target)]
    return [served.function for served in by_name(found).values()]


def _load(target: str) -> list[NativeFunction[..., Any]]:
    module_name, _, name = target.partition(":")
    if not module_name:
        raise _complaint(target, "it names no module", "write `module`, `FILE.py`, `module:name` or `FILE.py:name`")
    module = load_module(module_name, Path.cwd(), lambda problem, remedy: _complaint(target, problem, remedy))
    if not name:
        found = _functions_in(vars(module).values())
        if not found:
            raise _complaint(target, "there is no native function in it", _MAKE_ONE)
        return found
    named = find_in(module, name, lambda problem, remedy: _complaint(target, problem, remedy))
    if isinstance(named, NativeFunction):
        return [named]
    found = _functions_in(named) if isinstance(named, list | tuple | set | frozenset) else []
    if not found:
        raise _complaint(target, f"{name!r} is no native function, and no list of them", _MAKE_ONE)
    return found


def _functions_in(values: Iterable[object]) -> list[NativeFunction[..., Any]]:
    return [value for value in values if isinstance(value, NativeFunction)]


def _complaint(target: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{target}: {problem}; {remedy}")
