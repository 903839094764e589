"""Native functions: ordinary code of somebody's own as a step of a program. It runs where its host runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, overload

from parrot_mq.errors import ConfigurationError
from parrot_mq.program.base import NO_NAMES, ProgramFunction, check_timeout
from parrot_mq.program.call import FunctionCall, bind
from parrot_mq.program.native_signature import NativeSpec, read_native_function
from parrot_mq.program.parameters import Input
from parrot_mq.program.session_context import Caller
from parrot_mq.program.variable import ListVariable, SemanticVariable

__all__ = ["NativeCallable", "NativeFunction", "native_function"]

P = ParamSpec("P")
R = TypeVar("R")

RETRY_ON: Final[tuple[type[Exception], ...]] = (ConnectionError, TimeoutError)
ATTEMPT_TIMEOUT_S: Final = 60.0
MAX_ATTEMPTS: Final = 3
_MOST_ATTEMPTS: Final = 100


class NativeCallable(ProgramFunction):
    """What is called with texts and variables, and runs at a host of native functions.

    Attributes:
        spec: Inputs and outputs.
        attempt_timeout_s: Seconds that one attempt may take.
        max_attempts: How often it is attempted at most.
    """

    spec: NativeSpec
    attempt_timeout_s: float
    max_attempts: int
    _chosen_by: SemanticVariable | None = None
    _choices: tuple[str, ...] = ()

    def __call__(self, *args: Input, **kwargs: Input) -> SemanticVariable:
        """Call it: the variable of its one output comes back at once.

        Raises:
            CallError: The arguments do not fit, no session is open, or the function has several outputs.
        """
        return self._submit_one(self.bind(*args, **kwargs))

    def outputs(self, *args: Input, **kwargs: Input) -> tuple[SemanticVariable, ...]:
        """Call it: the variables of its outputs come back at once, in the order of the fields.

        Raises:
            CallError: The arguments do not fit, or no session is open.
        """
        return self._submit(self.bind(*args, **kwargs))

    def map(self, *args: Input, **kwargs: Input) -> ListVariable:
        """Call it for each item of a list, however many there will be: the list of the results comes back at once.

        All arguments that are list variables are gone through side by side, so they have the same length; the others
        are the same for all. The server does it: an item is worked on as soon as the list is known.

        Raises:
            CallError: The arguments do not fit, none of them is a `ListVariable`, no session is open, or the function
                has several outputs.

        Example:
            ```python
            points = find(question=question)  # a ListVariable: `def find(question: str) -> list[str]`
            reviews = review.map(point=points, style="short")
            ```
        """
        return self._map_one(self.bind(*args, **kwargs))

    def map_outputs(self, *args: Input, **kwargs: Input) -> tuple[ListVariable, ...]:
        """As `map`, for a function with several outputs: a list of each, in their order.

        Raises:
            CallError: The arguments do not fit, none of them is a `ListVariable`, or no session is open.
        """
        return self._map(self.bind(*args, **kwargs))

    def bind(self, *args: Input, **kwargs: Input) -> FunctionCall:
        """Check the arguments, and submit nothing.

        Raises:
            CallError: The arguments do not fit.
        """
        return FunctionCall(
            spec=self.spec,
            inputs=bind(self.spec, args, kwargs),
            name=self.name,
            timeout_s=self.timeout_s,
            names=self.names,
            chosen_by=self._chosen_by,
            choices=self._choices,
            attempt_timeout_s=self.attempt_timeout_s,
            max_attempts=self.max_attempts,
        )


class NativeFunction(NativeCallable, Generic[P, R]):
    """Code that is called like a function, and runs at its host. Made by `native_function`; it never changes.

    Attributes:
        function: What was decorated, as it was: `search.function("parrots")`.
        retry_on: Exceptions after which another attempt may succeed.
    """

    __name__: str

    def __init__(
        self,
        function: Callable[P, R],
        spec: NativeSpec,
        *,
        name: str = "",
        timeout_s: float | None = None,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        max_attempts: int = MAX_ATTEMPTS,
        retry_on: type[Exception] | Sequence[type[Exception]] = RETRY_ON,
        names: Mapping[str, str] = NO_NAMES,
        session: Caller | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.spec = spec
        self.attempt_timeout_s = _check_attempt_timeout(attempt_timeout_s)
        self.max_attempts = _check_attempts(max_attempts)
        self.retry_on = _check_exceptions(retry_on)
        super().__init__(name=name, timeout_s=timeout_s, names=names, session=session)

    if TYPE_CHECKING:  # the variable of a list can be awaited as a list

        @overload
        def __call__(self: NativeFunction[P, list[str]], *args: Input, **kwargs: Input) -> ListVariable: ...
        @overload
        def __call__(
            self: NativeFunction[P, Coroutine[Any, Any, list[str]]], *args: Input, **kwargs: Input
        ) -> ListVariable: ...
        @overload
        def __call__(self, *args: Input, **kwargs: Input) -> SemanticVariable: ...
        def __call__(self, *args: Input, **kwargs: Input) -> SemanticVariable: ...

    def using(
        self,
        *,
        timeout_s: float | None = None,
        attempt_timeout_s: float | None = None,
        max_attempts: int | None = None,
        names: Mapping[str, str] | None = None,
        session: Caller | None = None,
    ) -> NativeFunction[P, R]:
        """A copy with other options; what is None stays as it is.

        Args:
            timeout_s: Seconds that the outputs may take, all attempts together.
            attempt_timeout_s: Seconds that one attempt may take.
            max_attempts: How often it is attempted at most.
            names: Names for output variables, by output. A name is used once per session.
            session: The session that takes the calls.

        Raises:
            ConfigurationError: An option is out of its range.
            InvalidName: A variable name cannot be used.
            CallError: `names` names no output of the function, or one variable twice.
        """
        return NativeFunction(
            self.function,
            self.spec,
            name=self.name,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            attempt_timeout_s=self.attempt_timeout_s if attempt_timeout_s is None else attempt_timeout_s,
            max_attempts=self.max_attempts if max_attempts is None else max_attempts,
            retry_on=self.retry_on,
            names=self.names if names is None else names,
            session=self.session if session is None else session,
        )


@overload
def native_function(function: Callable[P, R], /) -> NativeFunction[P, R]: ...


@overload
def native_function(
    *,
    name: str = "",
    timeout_s: float | None = None,
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    max_attempts: int = MAX_ATTEMPTS,
    retry_on: type[Exception] | Sequence[type[Exception]] = RETRY_ON,
) -> Callable[[Callable[P, R]], NativeFunction[P, R]]: ...


def native_function(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str = "",
    timeout_s: float | None = None,
    attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
    max_attempts: int = MAX_ATTEMPTS,
    retry_on: type[Exception] | Sequence[type[Exception]] = RETRY_ON,
) -> NativeFunction[P, R] | Callable[[Callable[P, R]], NativeFunction[P, R]]:
    """Make ordinary code a step of programs: it takes texts and returns a text, a list of texts, or a record of texts.

    Calls give variables at once, as those of semantic functions do. The code runs where `parrot-mq native` serves it;
    only its name and its arguments travel.

    Delivery: at least once. A host may be lost after the code has run, so it should do no harm to run it again;
    `native.current_call().call` names the call, however often it is attempted.

    Args:
        function: A `def` or an `async def`; one that waits without `await` runs in a thread.
        name: What it is called on the server; the function's own name if empty.
        timeout_s: Seconds that the outputs may take, all attempts together; None means what the session says.
        attempt_timeout_s: Seconds that one attempt may take.
        max_attempts: How often it is attempted at most.
        retry_on: Exceptions after which another attempt may succeed. Others are final. Errors of this project say
            themselves whether they are.

    Raises:
        SignatureError: The signature cannot be used; the message names file and line, and the remedy.
        ConfigurationError: An option is out of its range.
        InvalidName: `name`, or without it the function's name, has other characters than A-Z a-z 0-9 _ -, or too many.

    Example:
        ```python
        @native_function(attempt_timeout_s=10)
        async def search(question: str) -> str:
            return await library.find(question)
        ```
    """

    def decorate(function: Callable[P, R]) -> NativeFunction[P, R]:
        return NativeFunction(
            function,
            read_native_function(function),
            name=name,
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
            max_attempts=max_attempts,
            retry_on=retry_on,
        )

    return decorate if function is None else decorate(function)


def _check_attempt_timeout(timeout_s: float) -> float:
    checked = check_timeout("attempt_timeout_s", timeout_s)
    if checked is None:
        raise ConfigurationError("attempt_timeout_s=None cannot be used: every attempt has a limit, in seconds")
    return checked


def _check_attempts(max_attempts: int) -> int:
    is_number = isinstance(max_attempts, int) and not isinstance(max_attempts, bool)
    if not is_number or not 1 <= max_attempts <= _MOST_ATTEMPTS:
        raise ConfigurationError(
            f"max_attempts={max_attempts!r} cannot be used: it is a whole number from 1 to {_MOST_ATTEMPTS}"
        )
    return max_attempts


def _check_exceptions(retry_on: type[Exception] | Sequence[type[Exception]]) -> tuple[type[Exception], ...]:
    classes = (retry_on,) if isinstance(retry_on, type) else tuple(retry_on)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise ConfigurationError(
                f"retry_on has {each!r}, which is no kind of exception; name classes, such as ConnectionError"
            )
    return classes
