"""Semantic functions: a Python signature with a prompt as docstring.

Source: Parrot, OSDI'24, section 4.1 and figure 7.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Final, Generic, ParamSpec, overload

from parrot_mq.errors import ConfigurationError
from parrot_mq.program.base import NO_NAMES, ProgramFunction
from parrot_mq.program.call import PromptCall, bind
from parrot_mq.program.session_context import Caller
from parrot_mq.program.signature import FunctionSpec, read_function
from parrot_mq.program.variable import ListVariable, SemanticVariable

__all__ = ["SemanticFunction", "semantic_function"]

P = ParamSpec("P")

_MAX_MODEL_LENGTH: Final = 256


class SemanticFunction(ProgramFunction, Generic[P]):
    """A prompt that is called like a function. Made by `semantic_function`; it never changes.

    Attributes:
        spec: Signature and template.
        model: Who generates; empty means the one model that is served.
    """

    __name__: str
    spec: FunctionSpec

    def __init__(
        self,
        function: Callable[P, None],
        spec: FunctionSpec,
        *,
        name: str = "",
        model: str = "",
        timeout_s: float | None = None,
        names: Mapping[str, str] = NO_NAMES,
        session: Caller | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.spec = spec
        self.model = _check_model(model)
        super().__init__(name=name, timeout_s=timeout_s, names=names, session=session)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SemanticVariable:
        """Call it: the variable of its one output comes back at once.

        Raises:
            CallError: The arguments do not fit, no session is open, or the function has several outputs.
        """
        return self._submit_one(self.bind(*args, **kwargs))

    def outputs(self, *args: P.args, **kwargs: P.kwargs) -> tuple[SemanticVariable, ...]:
        """Call it: the variables of its outputs come back at once, in the order of the template.

        Raises:
            CallError: The arguments do not fit, or no session is open.
        """
        return self._submit(self.bind(*args, **kwargs))

    def map(self, *args: P.args, **kwargs: P.kwargs) -> ListVariable:
        """Call it for each item of a list, however many there will be: the list of the results comes back at once.

        All arguments that are list variables are gone through side by side, so they have the same length; the others
        are the same for all. The server does it: an item is worked on as soon as the list is known.

        Raises:
            CallError: The arguments do not fit, none of them is a `ListVariable`, no session is open, or the function
                has several outputs.

        Example:
            ```python
            points = extract(passage=text)  # a ListVariable: `points: Output = Output(transform=Split())`
            reviews = review.map(point=points, style="short")
            ```
        """
        return self._map_one(self.bind(*args, **kwargs))

    def map_outputs(self, *args: P.args, **kwargs: P.kwargs) -> tuple[ListVariable, ...]:
        """As `map`, for a function with several outputs: a list of each, in their order.

        Raises:
            CallError: The arguments do not fit, none of them is a `ListVariable`, or no session is open.
        """
        return self._map(self.bind(*args, **kwargs))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> PromptCall:
        """Check the arguments, and submit nothing.

        Raises:
            CallError: The arguments do not fit.
        """
        return PromptCall(
            spec=self.spec,
            inputs=bind(self.spec, args, kwargs),
            name=self.name,
            model=self.model,
            timeout_s=self.timeout_s,
            names=self.names,
        )

    def using(
        self,
        *,
        model: str | None = None,
        timeout_s: float | None = None,
        names: Mapping[str, str] | None = None,
        session: Caller | None = None,
    ) -> SemanticFunction[P]:
        """A copy with other options; what is None stays as it is.

        Args:
            model: Who generates.
            timeout_s: Seconds that the outputs may take.
            names: Names for output variables, by output. A name is used once per session.
            session: The session that takes the calls.

        Raises:
            ConfigurationError: An option is out of its range.
            InvalidName: A variable name cannot be used.
            CallError: `names` names no output of the function, or one variable twice.
        """
        return SemanticFunction(
            self._function,
            self.spec,
            name=self.name,
            model=self.model if model is None else model,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            names=self.names if names is None else names,
            session=self.session if session is None else session,
        )


@overload
def semantic_function(function: Callable[P, None], /) -> SemanticFunction[P]: ...


@overload
def semantic_function(
    *, model: str = "", timeout_s: float | None = None, name: str = ""
) -> Callable[[Callable[P, None]], SemanticFunction[P]]: ...


def semantic_function(
    function: Callable[P, None] | None = None,
    /,
    *,
    model: str = "",
    timeout_s: float | None = None,
    name: str = "",
) -> SemanticFunction[P] | Callable[[Callable[P, None]], SemanticFunction[P]]:
    """Make a prompt callable: parameters are its inputs and outputs, the docstring is its template.

    Args:
        function: A function with a docstring and nothing else.
        model: Who generates; empty means the one model that is served.
        timeout_s: Seconds that the outputs may take; None means what the session says.
        name: What it is called on the server; the function's own name if empty.

    Raises:
        TemplateError: Signature or docstring cannot be used; the message names file and line and shows the place.
        ConfigurationError: `model` or `timeout_s` is out of its range.
        InvalidName: `name`, or without it the function's name, has other characters than A-Z a-z 0-9 _ -, or too many.

    Example:
        ```python
        @semantic_function
        def summarise(passage: Input, summary: Output = Output(max_tokens=48, stop="\\n")) -> None:
            \"""Summarise the passage in one sentence.

            Passage: {{passage}}
            Summary: {{summary}}\"""
        ```
    """

    def decorate(function: Callable[P, None]) -> SemanticFunction[P]:
        return SemanticFunction(function, read_function(function), model=model, timeout_s=timeout_s, name=name)

    return decorate if function is None else decorate(function)


def _check_model(model: str) -> str:
    if not isinstance(model, str) or len(model) > _MAX_MODEL_LENGTH or not model.isprintable():
        rule = f"it is a printable text of at most {_MAX_MODEL_LENGTH} characters"
        raise ConfigurationError(f"model={model!r} cannot be used: {rule}")
    return model
