"""Reading a Python function as a native function: its parameters are the inputs, what it returns are the outputs."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parrot_mq.errors import SignatureError
from parrot_mq.program.spec import (
    CallableSpec,
    check_input,
    place_of,
    read_annotation,
    read_default,
    read_hints,
)
from parrot_mq.program.transforms import JsonPointer, Transform
from parrot_mq.program.values import InputText
from parrot_mq.types import NAME_RULE, is_name

__all__ = ["RESULT", "NativeSpec", "read_native_function"]

RESULT = "result"
"""Name of the output of a function that returns one."""

_ANNOTATE = "annotate it as `str` (the function gets texts; a call also takes variables)"
_RETURN = "return `str`, `list[str]`, or a NamedTuple or dataclass whose fields are `str`"


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSpec(CallableSpec):
    """What a native function says.

    Attributes:
        outputs: The outputs in their order, and what is made of the answer for each.
        is_record: Whether it returns a record with a field for each output, and not the value of its one output.
        is_async: Whether it is an `async def`.
    """

    outputs: Mapping[str, tuple[Transform, ...]]
    is_record: bool
    is_async: bool

    def transforms_of(self, output: str) -> tuple[Transform, ...]:
        """What is made of the text of an output."""
        return self.outputs[output]

    def is_taken_apart(self, output: str) -> bool:
        """Whether it is made of an answer that has a variable of its own: so that of several outputs is."""
        return len(self.outputs) > 1 or bool(self.outputs[output])

    @property
    def is_list(self) -> bool:
        """Whether its one output is a list of texts."""
        return any(self.outputs.values())


def read_native_function(function: Callable[..., object]) -> NativeSpec:
    """Read inputs and outputs of a function.

    Raises:
        SignatureError: The function cannot be a native function. The message names file and line, and the remedy.
    """
    try:
        return _read(function)
    except SignatureError as error:
        raise SignatureError(f"native function {place_of(function)}: {error.message}", **error.facts) from None


def _read(function: Callable[..., object]) -> NativeSpec:
    if not isinstance(function, types.FunctionType) or function.__name__ == "<lambda>":
        raise SignatureError("it is not a plain function; decorate a function written with `def` or `async def`")
    if function.__code__.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        raise SignatureError(f"it is a generator, and a call has one answer; {_RETURN}")
    hints = read_hints(function)
    signature = inspect.signature(function)
    separators: dict[str, str] = {}
    defaults: dict[str, InputText] = {}
    for parameter in signature.parameters.values():
        base, separators[parameter.name] = read_annotation(parameter, hints, kind="native", remedy=_ANNOTATE)
        check_input(parameter, base, remedy=_ANNOTATE)
        _check_wire_name(f"parameter `{parameter.name}`", parameter.name)
        defaults |= _default(parameter)
    outputs, is_record = _outputs(hints)
    return NativeSpec(
        name=function.__name__,
        signature=signature,
        separators=separators,
        defaults=defaults,
        outputs=outputs,
        objectives={},
        is_record=is_record,
        is_async=inspect.iscoroutinefunction(function),
    )


def _check_wire_name(what: str, name: str) -> None:
    if not is_name(name):
        raise SignatureError(f"{what} cannot be named on the wire; {NAME_RULE}")


def _default(parameter: inspect.Parameter) -> dict[str, InputText]:
    """Whoever calls over the wire may leave it out as well, so it has to be what the function itself takes."""
    found = read_default(parameter)
    if any(not isinstance(text, str) for text in found.values()):
        raise SignatureError(f"the default of `{parameter.name}` is no text; write `{parameter.name}: str = '…'`")
    return found


def _outputs(hints: Mapping[str, object]) -> tuple[dict[str, tuple[Transform, ...]], bool]:
    """The outputs, and whether they are fields of a record."""
    if "return" not in hints:
        raise SignatureError("it does not say what it returns; write `-> str`")
    returned = _bare(hints["return"])
    if returned is str:
        return {RESULT: ()}, False
    if _is_list(returned):
        return {RESULT: (JsonPointer(items=True),)}, False
    fields = _fields(returned)
    if not fields:
        shown = "None" if returned is types.NoneType else getattr(returned, "__name__", None) or str(returned)
        raise SignatureError(f"it returns `{shown}`; {_RETURN}")
    for name, hint in fields.items():
        if _bare(hint) is not str:
            raise SignatureError(f"the field `{name}` of what it returns is no `str`; {_RETURN}")
        _check_wire_name(f"the field `{name}` of what it returns", name)
    return dict.fromkeys(fields, ()), True


def _is_list(hint: object) -> bool:
    args = typing.get_args(hint)
    is_tuple = typing.get_origin(hint) is tuple and args == (str, Ellipsis)
    return is_tuple or (typing.get_origin(hint) in (list, Sequence) and args == (str,))


def _fields(hint: object) -> dict[str, object]:
    """The fields of a NamedTuple or a dataclass; nothing of anything else."""
    if not isinstance(hint, type):
        return {}
    if dataclasses.is_dataclass(hint):
        names = [field.name for field in dataclasses.fields(hint)]
    elif issubclass(hint, tuple):
        names = list(getattr(hint, "_fields", ()))
    else:
        return {}
    try:
        hints = typing.get_type_hints(hint)
    except Exception as error:  # annotations may be any code
        raise SignatureError(f"the annotations of `{hint.__name__}` cannot be resolved ({error})") from error
    return {name: hints.get(name) for name in names}


def _bare(hint: object) -> object:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
