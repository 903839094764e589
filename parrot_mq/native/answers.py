"""From what a native function returns or raises to what its caller is told. Pure."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from parrot_mq.errors import FunctionFailed, ParrotError
from parrot_mq.messages import ErrorInfo
from parrot_mq.program import NativeFunction
from parrot_mq.program.transforms import MAX_LIST_ITEMS

__all__ = ["describe_failure", "write_answer"]

_VERSIONS = "the caller and this host may have different versions of it"


def write_answer(function: NativeFunction[..., Any], outputs: Sequence[str], value: object) -> str:
    """The text that answers a call: of one output its value, of several a JSON object with a text for each.

    Args:
        function: What was called.
        outputs: The outputs that the caller asked for.
        value: What the function returned.

    Raises:
        FunctionFailed: It returned something else than it declares, or does not have these outputs.
    """
    spec = function.spec
    if inspect.iscoroutine(value):
        value.close()
    if spec.is_list:
        texts = {next(iter(spec.outputs)): _write_list(function, value)}
    else:
        texts = {name: _check_text(function, what, each) for name, what, each in _split(function, value)}
    if len(outputs) == 1 and len(texts) == 1:  # a caller in another language may call it something else
        return next(iter(texts.values()))
    if unknown := [name for name in outputs if name not in texts]:
        problem = f"it has no output {_names(unknown)}; it returns {_names(texts)}: {_VERSIONS}"
        raise FunctionFailed(function=function.name, problem=problem)
    if len(outputs) == 1:
        return texts[outputs[0]]
    return json.dumps({name: texts[name] for name in outputs}, ensure_ascii=False)


def describe_failure(function: NativeFunction[..., Any], error: BaseException) -> ErrorInfo:
    """What a caller is told of an exception: errors of this project as they are, of others class and message."""
    ours = error if isinstance(error, ParrotError) else FunctionFailed(function=function.name, problem=_say(error))
    info = ErrorInfo.from_error(ours)
    return msgspec.structs.replace(info, retryable=info.retryable or isinstance(error, function.retry_on))


def _say(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # its __str__ is somebody's code
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


# -- what was returned -----------------------------------------------------------------------------------------------


def _split(function: NativeFunction[..., Any], value: object) -> list[tuple[str, str, object]]:
    """For each output its name, its name in an error, and its value."""
    names = list(function.spec.outputs)
    if not function.spec.is_record:
        return [(names[0], "what it returned", value)]
    if isinstance(value, tuple):
        if len(value) != len(names):
            problem = f"it returned {len(value)} values; its outputs are {_names(names)}"
            raise FunctionFailed(function=function.name, problem=problem)
        values: Mapping[str, object] = dict(zip(names, value, strict=True))
    elif all(hasattr(value, name) for name in names):
        values = {name: getattr(value, name) for name in names}
    else:
        raise _mistake(function, "what it returned", value, f"return the record that it declares: {_names(names)}")
    return [(name, f"`{name}` of what it returned", values[name]) for name in names]


def _write_list(function: NativeFunction[..., Any], value: object) -> str:
    if not isinstance(value, list | tuple):
        raise _mistake(function, "what it returned", value, "return a list of texts, as it declares")
    if len(value) > MAX_LIST_ITEMS:
        problem = f"it returned {len(value):,} items; a list has at most {MAX_LIST_ITEMS:,}"
        raise FunctionFailed(function=function.name, problem=problem)
    items = [_check_text(function, f"item [{index}] of what it returned", item) for index, item in enumerate(value)]
    return json.dumps(items, ensure_ascii=False)


def _check_text(function: NativeFunction[..., Any], what: str, value: object) -> str:
    if not isinstance(value, str):
        raise _mistake(function, what, value, "return `str(value)`")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        surrogate = f"the lone surrogate U+{ord(value[error.start]):04X} at character {error.start}"
        problem = f"{what} has {surrogate}; decode texts with errors='replace'"
        raise FunctionFailed(function=function.name, problem=problem) from None
    return str.__str__(value)  # a plain str also of a StrEnum member or another subclass


def _mistake(function: NativeFunction[..., Any], what: str, value: object, remedy: str) -> FunctionFailed:
    """An error about the kind of a value. Never the value: it may be private."""
    kind = f"of type {type(value).__name__}"
    if value is None:
        kind, remedy = "None", "return '' for an empty text"
    elif isinstance(value, bytes | bytearray | memoryview):
        remedy = "decode it: `value.decode()`"
    elif inspect.isawaitable(value):
        remedy = "write `async def`, and `await` it"
    return FunctionFailed(function=function.name, problem=f"{what} is {kind}; {remedy}")


def _names(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names)
