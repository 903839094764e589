"""What a function that is called in a program says of itself, and reading it from a Python signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parrot_mq.errors import CallError, SignatureError
from parrot_mq.program.parameters import DEFAULT_SEPARATOR, Input, Separator
from parrot_mq.program.transforms import Transform
from parrot_mq.program.values import InputText, check_value
from parrot_mq.program.variable import SemanticVariable
from parrot_mq.types import Objective

__all__ = ["CallableSpec", "check_input", "place_of", "read_annotation", "read_default", "read_hints"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableSpec:
    """What every function says that is called in a program and runs elsewhere.

    Attributes:
        name: The function's name.
        signature: Its Python signature.
        separators: The inputs, and what joins the items of each when it is a list.
        defaults: Texts of the inputs that may be left out.
        outputs: The outputs in their order; what is said of each is up to the kind of function.
        objectives: What is wanted of outputs, where the function says so.
    """

    name: str
    signature: inspect.Signature
    separators: Mapping[str, str]
    defaults: Mapping[str, InputText]
    outputs: Mapping[str, object]
    objectives: Mapping[str, Objective]

    def __str__(self) -> str:
        inputs = [name + ("=…" if name in self.defaults else "") for name in self.separators]
        return f"{self.name}({', '.join(inputs)})"

    def transforms_of(self, output: str) -> tuple[Transform, ...]:
        """What is made of the text of an output."""
        raise NotImplementedError

    def is_taken_apart(self, output: str) -> bool:
        """Whether the text of an output is made of one that has a variable of its own, `<variable>-raw`."""
        return bool(self.transforms_of(output))

    def argument_error(self, name: str, problem: str) -> CallError:
        """An error about an argument: the function, and what is wrong."""
        return CallError(f"`{self}`: {problem}", function=self.name, argument=name)


def place_of(function: Callable[..., object]) -> str:
    """Name of a function, with file and line: how errors begin."""
    code = getattr(function, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"`{getattr(function, '__name__', repr(function))}`{place}"


def read_hints(function: types.FunctionType) -> dict[str, object]:
    """The annotations of a function, as objects.

    Raises:
        SignatureError: They cannot be resolved.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations may be any code
        raise SignatureError(
            f"its annotations cannot be resolved ({error}); import the names at the top of the module, "
            f"outside `if TYPE_CHECKING:`"
        ) from error


def read_annotation(
    parameter: inspect.Parameter, hints: Mapping[str, object], *, kind: str, remedy: str
) -> tuple[object, str]:
    """The annotation of a parameter without extras, and the separator of a list input.

    Args:
        kind: Of function: `semantic` or `native`.
        remedy: How to annotate.

    Raises:
        SignatureError: It has none, or stands for any number of parameters.
    """
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        what = "input and output" if kind == "semantic" else "input"
        raise SignatureError(f"it has `{parameter}`; name every {what} as a parameter of its own")
    if parameter.name not in hints:
        hint = f" (methods cannot be {kind} functions)" if parameter.name in ("self", "cls") else ""
        raise SignatureError(f"parameter `{parameter.name}` has no annotation{hint}; {remedy}")
    base, separator = hints[parameter.name], DEFAULT_SEPARATOR
    if typing.get_origin(base) is typing.Annotated:
        base, *extras = typing.get_args(base)
        separator = next((each.text for each in extras if isinstance(each, Separator)), separator)
    return base, separator


def check_input(parameter: inspect.Parameter, base: object, *, remedy: str) -> None:
    """Check that a parameter with this annotation can be an input.

    Raises:
        SignatureError: It is neither text nor variable.
    """
    if not _is_text(base):
        shown = getattr(base, "__name__", None) or str(base)
        raise SignatureError(
            f"parameter `{parameter.name}` is annotated `{shown}`, which is neither text nor variable; {remedy}"
        )


def _is_text(hint: object) -> bool:
    """True for `Input` and every part of it: str, a variable, lists and unions of these."""
    if hint in (Input, str) or (isinstance(hint, type) and issubclass(hint, SemanticVariable)):
        return True
    args = [each for each in typing.get_args(hint) if each is not Ellipsis]
    is_known = typing.get_origin(hint) in (typing.Union, types.UnionType, list, tuple, Sequence)
    return is_known and bool(args) and all(map(_is_text, args))


def read_default(parameter: inspect.Parameter) -> dict[str, InputText]:
    """The text of an input that may be left out, by its name; nothing if it may not.

    Raises:
        SignatureError: The default is no text.
    """
    if parameter.default is parameter.empty:
        return {}
    try:
        return {parameter.name: check_value(parameter.default)}
    except CallError as error:
        raise SignatureError(f"the default of `{parameter.name}` cannot be used: {error.message}") from None
