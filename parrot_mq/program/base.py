"""What is called like a function in a program, and runs elsewhere: what semantic and native functions share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from parrot_mq.errors import CallError, ConfigurationError
from parrot_mq.program.call import Call
from parrot_mq.program.session_context import Caller, current_session
from parrot_mq.program.spec import CallableSpec
from parrot_mq.program.variable import ListVariable, SemanticVariable
from parrot_mq.types import check_name

__all__ = ["NO_NAMES", "ProgramFunction", "check_timeout"]

MAX_TIMEOUT_S: Final = 7 * 86400
NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


class ProgramFunction:
    """Signature and options, and from a checked call to its variables. It never changes.

    Attributes:
        spec: What the function says of itself.
        name: What it is called on the server.
        timeout_s: Seconds that the outputs may take; None means what the session says.
        names: Names chosen for output variables.
        session: The session that takes the calls; None means the one that is open where it is called.
    """

    spec: CallableSpec

    def __init__(
        self,
        *,
        name: str,
        timeout_s: float | None,
        names: Mapping[str, str],
        session: Caller | None,
    ) -> None:
        self.name = check_name("function", name or self.spec.name)  # a part of the tasks' ids
        self.timeout_s = check_timeout("timeout_s", timeout_s)
        self.names = _check_names(self.spec, names)
        self.session = session

    def _submit_one(self, call: Call) -> SemanticVariable:
        """The variable of the one output.

        Raises:
            CallError: No session is open, or the function has several outputs.
        """
        self._check_one_output("outputs")
        (variable,) = self._submit(call)
        return variable

    def _submit(self, call: Call) -> tuple[SemanticVariable, ...]:
        """The variables of all outputs, in their order.

        Raises:
            CallError: No session is open.
        """
        caller = self.session or current_session.get()
        if caller is None:
            raise CallError(
                f"`{self.spec}` is called outside a session; call it inside `async with client.session():`, "
                f"or through `{self.spec.name}.using(session=session)`",
                function=self.spec.name,
            )
        call.check_session(caller.tenant, caller.name)
        call.check_names()
        return caller.submit(call)

    def _map_one(self, call: Call) -> ListVariable:
        """The results of the one output, for each item of the lists among the inputs.

        Raises:
            CallError: None of the inputs is a list, no session is open, or the function has several outputs.
        """
        self._check_one_output("map_outputs")
        (variable,) = self._map(call)
        return variable

    def _map(self, call: Call) -> tuple[ListVariable, ...]:
        """The results of all outputs, each for each item of the lists among the inputs.

        Raises:
            CallError: None of the inputs is a list, or no session is open.
        """
        return tuple(variable.as_list() for variable in self._submit(call.over_lists()))

    def _check_one_output(self, several: str) -> None:
        if len(self.spec.outputs) > 1:
            names = ", ".join(self.spec.outputs)
            raise CallError(
                f"`{self.spec}` has {len(self.spec.outputs)} outputs; write `{names} = {self.spec.name}.{several}(…)`",
                function=self.spec.name,
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec} -> {', '.join(self.spec.outputs)}>"


def check_timeout(argument: str, timeout_s: float | None) -> float | None:
    """A number of seconds that can be waited for, or None.

    Raises:
        ConfigurationError: It is none; the message names the argument.
    """
    if timeout_s is None:
        return None
    is_number = isinstance(timeout_s, int | float) and math.isfinite(timeout_s)
    if not is_number or not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ConfigurationError(
            f"{argument}={timeout_s!r} cannot be used: it is a number of seconds, above 0 and at most a week"
        )
    return float(timeout_s)


def _check_names(spec: CallableSpec, names: Mapping[str, str]) -> Mapping[str, str]:
    for output, variable in names.items():
        if output not in spec.outputs:
            known = ", ".join(spec.outputs)
            raise CallError(f"`{spec}` has no output {output!r} to name; its outputs are {known}", function=spec.name)
        check_name("variable", variable)
    if len(set(names.values())) < len(names):
        raise CallError(f"`{spec}`: two outputs cannot share the variable name", function=spec.name)
    return MappingProxyType(dict(names))
