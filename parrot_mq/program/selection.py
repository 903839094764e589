"""Native functions of which a variable says which one is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from parrot_mq.errors import CallError
from parrot_mq.program.base import NO_NAMES
from parrot_mq.program.native import NativeCallable, NativeFunction
from parrot_mq.program.native_signature import NativeSpec
from parrot_mq.program.session_context import Caller
from parrot_mq.program.variable import ListVariable, SemanticVariable

__all__ = ["Selection", "select"]


class Selection(NativeCallable):
    """Several native functions of which a variable says which one is called. Made by `select`; it never changes.

    Attributes:
        variable: Its text, without white space around it, is the name of one of them.
        among: The functions.
    """

    def __init__(
        self,
        variable: SemanticVariable,
        among: Sequence[NativeFunction[..., Any]],
        *,
        timeout_s: float | None = None,
        names: Mapping[str, str] = NO_NAMES,
        session: Caller | None = None,
    ) -> None:
        self.variable = self._chosen_by = _check_variable(variable)
        self.among = _check_functions(among)
        self._choices = tuple(each.name for each in self.among)
        self.spec = _common_spec(self.among)
        self.attempt_timeout_s = max(each.attempt_timeout_s for each in self.among)
        self.max_attempts = max(each.max_attempts for each in self.among)
        super().__init__(name="select", timeout_s=timeout_s, names=names, session=session)

    def using(
        self,
        *,
        timeout_s: float | None = None,
        names: Mapping[str, str] | None = None,
        session: Caller | None = None,
    ) -> Selection:
        """A copy with other options; see `NativeFunction.using`."""
        return Selection(
            self.variable,
            self.among,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            names=self.names if names is None else names,
            session=self.session if session is None else session,
        )


def select(variable: SemanticVariable, among: Sequence[NativeFunction[..., Any]]) -> Selection:
    """Let a variable say which native function is called: an output of a prompt, for instance. No client is asked.

    Args:
        variable: Its text, without white space around it, is the name of a function.
        among: The functions that it may name. They take the same arguments and have the same outputs.

    Raises:
        CallError: The functions do not fit each other, or there is nothing to choose.

    Example:
        ```python
        tool = decide(question=question)  # "search" or "calculate"
        found = select(tool, among=[search, calculate])(question=question)
        ```
    """
    return Selection(variable, among)


def _check_variable(variable: object) -> SemanticVariable:
    if isinstance(variable, ListVariable):
        raise CallError(f"`select` takes a variable with one text; {variable!r} is a list")
    if not isinstance(variable, SemanticVariable):
        remedy = "call the function itself, or pass the variable whose text will be its name"
        raise CallError(f"`select` takes a variable, not {type(variable).__name__}; {remedy}")
    return variable


def _check_functions(among: Sequence[NativeFunction[..., Any]]) -> tuple[NativeFunction[..., Any], ...]:
    """The functions, if a name says which one is meant."""
    functions = tuple(among)
    for each in functions:
        if not isinstance(each, NativeFunction):
            raise CallError(f"`select` chooses among native functions; {each!r} is none")
    if len(functions) < 2:
        raise CallError(f"`select` chooses among two or more functions, got {len(functions)}: `among=[…, …]`")
    names = [each.name for each in functions]
    if len(set(names)) < len(names):
        raise CallError(f"`select`: two functions have one name ({', '.join(names)}); give one another: `name=…`")
    return functions


def _common_spec(among: Sequence[NativeFunction[..., Any]]) -> NativeSpec:
    """What all of them say."""
    first = among[0].spec
    for other in (each.spec for each in among[1:]):
        if other.separators != first.separators:
            raise CallError(f"`select`: `{first}` and `{other}` do not take the same arguments; name them alike")
        if list(other.outputs) == list(first.outputs) and other.outputs != first.outputs:
            alike = f"`{first.name}` and `{other.name}` return the same names, but not the same kinds"
            raise CallError(f"`select`: {alike}; let all return `str`, or all `list[str]`")
        if other.outputs != first.outputs:
            gives = f"`{first.name}` gives {', '.join(first.outputs)}, `{other.name}` {', '.join(other.outputs)}"
            raise CallError(f"`select`: {gives}; they have to return the same")
    common = {
        name: text
        for name, text in first.defaults.items()
        if all(each.spec.defaults.get(name) == text for each in among)
    }
    return replace(first, name="|".join(each.name for each in among), defaults=common)
