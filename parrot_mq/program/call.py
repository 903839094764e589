"""A call: a function with its inputs, not yet submitted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from parrot_mq.errors import CallError, InvalidName
from parrot_mq.program.native_signature import NativeSpec
from parrot_mq.program.parameters import DEFAULT_SEPARATOR
from parrot_mq.program.signature import FunctionSpec
from parrot_mq.program.spec import CallableSpec
from parrot_mq.program.transforms import MAX_LIST_ITEMS, makes_list
from parrot_mq.program.values import InputText, check_value, variables_in
from parrot_mq.program.variable import ListVariable, SemanticVariable
from parrot_mq.types import MAX_NAME_LENGTH, item_variable, raw_variable

__all__ = ["Call", "FunctionCall", "PromptCall", "bind"]

_RAW: Final = raw_variable("v").removeprefix("v")
_LAST_ITEM: Final = item_variable("v", MAX_LIST_ITEMS - 1).removeprefix("v")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
    """What is submitted. Each field has its place in a task.

    Attributes:
        spec: The function.
        inputs: What fills each input; every input is there.
        name: Name of the function, for people and tools.
        timeout_s: Seconds that the outputs may take; None means what the session says.
        names: Names chosen for output variables; the session makes up the others.
        each: Inputs that are lists and are gone through: it is called for each of their items, side by side.
    """

    spec: CallableSpec
    inputs: Mapping[str, InputText]
    name: str
    timeout_s: float | None = None
    names: Mapping[str, str]
    each: tuple[str, ...] = ()

    @property
    def separators(self) -> dict[str, str]:
        """What joins the items of each list input, where it is not a line break."""
        return {
            name: self.spec.separators[name]
            for name, value in self.inputs.items()
            if name not in self.each
            and isinstance(value, tuple | ListVariable)
            and self.spec.separators[name] != DEFAULT_SEPARATOR
        }

    def makes_list(self, output: str) -> bool:
        """Whether an output is a list."""
        return bool(self.each) or makes_list(self.spec.transforms_of(output))

    def over_lists(self) -> Self:
        """The call for each item of the lists among its inputs.

        Raises:
            CallError: There is none.
        """
        each = tuple(name for name, value in self.inputs.items() if isinstance(value, ListVariable))
        if not each:
            problem = f"`{self.spec}`: `map` goes through lists, and none of the arguments is a ListVariable"
            remedy = "pass one; `variable.as_list()` says that a variable is one, `session.set(name, […])` makes one"
            raise CallError(f"{problem}; {remedy}", function=self.spec.name)
        return replace(self, each=each)

    def check_names(self) -> None:
        """Check that the chosen names leave room for those of what goes with the outputs.

        Raises:
            InvalidName: One is too long.
        """
        for output, name in self.names.items():
            most = MAX_NAME_LENGTH - sum(map(len, self._endings(output)))
            if len(name) > most:
                rule = f"use at most {most} characters, so that there is room for {' and '.join(self._endings(output))}"
                raise InvalidName(kind="variable", name=name, rule=rule)

    def _endings(self, output: str) -> list[str]:
        """The longest endings of names of variables that go with an output."""
        endings = [_LAST_ITEM] if self.each else []
        if makes_list(self.spec.transforms_of(output)):
            return [*endings, _LAST_ITEM]
        return [*endings, _RAW] if self.spec.is_taken_apart(output) else endings

    def reads(self) -> list[SemanticVariable]:
        """The variables that have to be set before it can run."""
        return [variable for value in self.inputs.values() for variable in variables_in(value)]

    def __repr__(self) -> str:
        return f"<Call {self.spec}>"  # without the inputs: prompts may be private and long

    def check_session(self, tenant: str, session: str) -> None:
        """Check that the call can run in a session.

        Raises:
            CallError: An input is a variable of another session.
        """
        for name, value in self.inputs.items():
            for variable in variables_in(value):
                if _is_of_another(variable, tenant, session):
                    raise self.spec.argument_error(name, _of_another(variable, session))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PromptCall(Call):
    """A call of a semantic function.

    Attributes:
        model: Who generates; empty means the one model that is served.
    """

    spec: FunctionSpec
    model: str = ""

    @property
    def template(self) -> str:
        """The template's source, as it goes over the wire."""
        return self.spec.template.source


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FunctionCall(Call):
    """A call of a native function, or of the one that a variable names.

    Attributes:
        chosen_by: The variable that says which function; None if `name` is the function.
        choices: The functions that it may name.
        attempt_timeout_s: Seconds that one attempt may take.
        max_attempts: How often it is attempted at most.
    """

    spec: NativeSpec
    chosen_by: SemanticVariable | None = None
    choices: tuple[str, ...] = ()
    attempt_timeout_s: float
    max_attempts: int

    def reads(self) -> list[SemanticVariable]:
        """The variables that have to be set before it can run."""
        return [*([] if self.chosen_by is None else [self.chosen_by]), *Call.reads(self)]

    def check_session(self, tenant: str, session: str) -> None:
        """Check that the call can run in a session.

        Raises:
            CallError: A variable that it reads is of another session.
        """
        if self.chosen_by is not None and _is_of_another(self.chosen_by, tenant, session):
            raise CallError(f"`{self.spec}`: {_of_another(self.chosen_by, session)}", function=self.spec.name)
        Call.check_session(self, tenant, session)


def bind(spec: CallableSpec, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, InputText]:
    """Match arguments with the inputs of a function.

    Raises:
        CallError: An argument is missing, unknown, given twice, meant for an output, or of a type that is no text.
    """
    try:
        given = spec.signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        raise CallError(f"`{spec}`: {error}; {_suggest(spec, kwargs)}", function=spec.name) from None
    for name in given:
        if name not in spec.separators:
            problem = f"`{name}` is an output: the model writes it, so it takes no argument"
            raise spec.argument_error(name, f"{problem}; the call returns its variable")
    missing = [name for name in spec.separators if name not in given and name not in spec.defaults]
    if missing:
        raise spec.argument_error(missing[0], f"missing argument: {', '.join(f'`{name}`' for name in missing)}")
    return {name: _value(spec, name, given) for name in spec.separators}


def _suggest(spec: CallableSpec, kwargs: Mapping[str, object]) -> str:
    unknown = [name for name in kwargs if name not in spec.signature.parameters]
    close = difflib.get_close_matches(unknown[0], spec.separators, n=1) if unknown else []
    meant = f"did you mean `{close[0]}`? " if close else ""
    return f"{meant}its inputs: {', '.join(spec.separators) or 'none'}"


def _value(spec: CallableSpec, name: str, given: Mapping[str, object]) -> InputText:
    if name not in given:
        return spec.defaults[name]
    try:
        return check_value(given[name])
    except CallError as error:
        raise spec.argument_error(name, f"argument `{name}`: {error.message}") from None


def _is_of_another(variable: SemanticVariable, tenant: str, session: str) -> bool:
    return (variable.session.tenant, variable.session.name) != (tenant, session)


def _of_another(variable: SemanticVariable, session: str) -> str:
    remedy = "await it and pass its text, or call in its session"
    return f"{variable!r} belongs to another session than the call, {session!r}; {remedy}"
