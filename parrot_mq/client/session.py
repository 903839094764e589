"""A session: where calls go and variables live."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import NamedTuple

from parrot_mq.bus import Bus, fetch_text, get_usage, set_variable
from parrot_mq.bus.tasks import for_each
from parrot_mq.client.awaited import AwaitedVariables
from parrot_mq.client.control import SessionControl
from parrot_mq.client.marks import KeptMarks
from parrot_mq.client.outbox import Outbox
from parrot_mq.client.streaming import stream_text
from parrot_mq.client.submission import make_submission
from parrot_mq.client.values import SessionValues
from parrot_mq.errors import CallError, DuplicateProducer, ParrotError, SessionClosed
from parrot_mq.messages import ErrorInfo, Usage, VariableAddress
from parrot_mq.program import Call, ListVariable, Mark, SemanticVariable, check_mark
from parrot_mq.program.transforms import encode_list
from parrot_mq.program.values import check_text, check_texts
from parrot_mq.types import SessionId, TenantId, TextPiece, VariableId, check_name, fresh_id, item_variable

__all__ = ["Session"]

MAX_STEM = 30
"""Characters of a generated name that say what it is. With 80 random bits, and twice the number of an item, it is still
a name."""
NUM_WRITERS = 32
"""How many items of a list are stored at a time."""
GRACE_S = 5.0
"""How much longer than a task's own time a client waits: the server's word on it should arrive first."""


class Expected(NamedTuple):
    """An output of a call: the task that writes it, and how long a reader waits for it by default."""

    task: str
    timeout_s: float


class Session:
    """Takes calls, waits for values. Open it with `Client.session`.

    Calls return at once: what they submit is sent in the background, and runs as soon as it can, whether or not anyone
    waits for it.

    Attributes:
        name: The session's name; with the tenant it is the address of its variables.
        tenant: The tenant.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        tenant: str,
        name: str,
        model: str,
        timeout_s: float,
        is_own: bool,
        marks_awaited: bool = True,
    ) -> None:
        self.tenant = TenantId(check_name("tenant", tenant))
        self.name = SessionId(check_name("session", name))
        self._bus = bus
        self._model = model
        self._timeout_s = timeout_s
        self._is_own = is_own
        self._control = SessionControl(bus, self.tenant, self.name)
        self._values = SessionValues(bus, self.tenant, self.name)
        self._outbox = Outbox(bus, self.tenant, self.name, self._values)
        self._marks = KeptMarks(bus, self._control, session=self.name, is_set=self._values.is_set)
        self._awaited = AwaitedVariables(
            self._control, self._marks, session=self.name, is_set=self._values.is_set, is_active=marks_awaited
        )
        self._expected: dict[str, Expected] = {}
        self._counter = itertools.count(1)
        self._has_started = self._is_closed = False

    # -- calls -------------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> tuple[SemanticVariable, ...]:
        """Take a call; its task is sent in the background. The functions of a program call this.

        Raises:
            SessionClosed: The session has ended.
            DuplicateProducer: A name that was chosen for an output is that of another call.
            CapacityExhausted: Too many calls wait to be sent; `await session.flush()` in between.
        """
        self._check_open()
        self._outbox.check_room()
        for chosen in call.names.values():
            if chosen in self._expected:
                raise DuplicateProducer(variable=chosen, producer=self._expected[chosen].task)
        names = {output: call.names.get(output) or self._fresh(output) for output in call.spec.outputs}
        timeout_s = call.timeout_s if call.timeout_s is not None else self._timeout_s
        task = self._fresh(call.name)
        for output, name in names.items():
            self._values.expect(name, is_new=output not in call.names)
            self._expected[name] = Expected(task, timeout_s + GRACE_S)
        submission = make_submission(call, names, task=task, model=self._model, timeout_s=timeout_s)
        self._outbox.send(submission)
        self._awaited.submitted(
            writes=names.values(),
            reads=(*submission.chained_outputs, *(variable.id for variable in call.reads())),
            marked=(names[output] for output in call.spec.objectives),
        )
        return tuple(
            ListVariable(self, name) if call.makes_list(output) else SemanticVariable(self, name)
            for output, name in names.items()
        )

    async def flush(self) -> None:
        """Wait until every call so far has been stored by the server, or has failed."""
        await self._outbox.flush()

    def _fresh(self, stem: str) -> str:
        """A name that is new in the session, with room for endings; in one that is ours alone a number is enough.

        With `-` before the number it could be that of an item of a list that is called so.
        """
        if not self._is_own:
            return fresh_id(stem[:MAX_STEM])
        names = (f"{stem[:MAX_STEM]}_{number}" for number in self._counter)
        return next(name for name in names if name not in self._expected)

    # -- variables ---------------------------------------------------------------------------------------------------

    def variable(self, name: str) -> SemanticVariable:
        """Any variable of the session, whoever sets it.

        Raises:
            InvalidName: The name cannot be used.
        """
        return SemanticVariable(self, check_name("variable", name))

    def list_variable(self, name: str) -> ListVariable:
        """Any list variable of the session, whoever sets it.

        Raises:
            InvalidName: The name cannot be used.
        """
        return ListVariable(self, check_name("variable", name))

    async def set(self, variable_id: str, value: str | Sequence[str]) -> None:
        """Set a variable, once; returns when the value is stored.

        Args:
            variable_id: Its name.
            value: A text; or several, which make a list variable, at most 10,000.

        Raises:
            VariableAlreadySet: It has another value.
            CallError: The value is neither text nor list of texts, or the list is too long.
            InvalidName: The name cannot be used; that of a list has room for the numbers of its items.
            SessionClosed: The session has ended.
        """
        self._check_open()
        if isinstance(value, str):
            await self._set_text(variable_id, check_text(value))
            return
        items = check_texts(value)

        async def set_item(item: tuple[int, str]) -> None:
            await self._set_text(item_variable(variable_id, item[0]), item[1])

        await for_each(enumerate(items), set_item, num_workers=NUM_WRITERS)
        await self._set_text(variable_id, encode_list(items))

    async def _set_text(self, variable_id: str, text: str) -> None:
        await set_variable(self._bus, VariableAddress(self.tenant, self.name, VariableId(variable_id)), text)

    async def get(self, variable_id: str, timeout_s: float | None = None) -> str:
        """Wait for a value. Unless something else was said of the variable, somebody waits for it from now on.

        Args:
            timeout_s: Seconds to wait; by default a little longer than the task that writes it may take.

        Raises:
            DeadlineExceeded: It was not there in time.
            SessionClosed: The session has ended.
            ParrotError: The variable failed; the error says why.
        """
        self._check_open()
        self._awaited.awaited(variable_id)
        value = await self._values.wait(variable_id, self._limit(variable_id, timeout_s))
        return await fetch_text(self._bus, self.tenant, value)

    async def usage(self, variable: str | SemanticVariable) -> Usage:
        """Wait for a value; returns what it cost to generate: zeros if nobody generated it. Errors also as for `get`.

        Raises:
            CallError: The variable belongs to another session.
            InvalidName: The name cannot be used.
        """
        name = self._name(variable)
        await self.get(name)
        return await get_usage(self._bus, VariableAddress(self.tenant, self.name, VariableId(name))) or Usage()

    async def stream(self, variable_id: str, timeout_s: float | None = None) -> AsyncIterator[TextPiece]:
        """Yield what was generated of a variable so far, and then the rest while it is generated; errors as for `get`.

        However late the reader comes, and whatever happens to its connection or to the worker, the pieces joined are
        the value.

        Raises:
            GenerationAborted: Another attempt wrote another text than the one that was yielded so far.
        """
        self._check_open()
        self._awaited.awaited(variable_id)
        future = await self._values.future(variable_id)
        limit_s = self._limit(variable_id, timeout_s)
        async with aclosing(stream_text(self._bus, self.tenant, self.name, variable_id, future, limit_s)) as pieces:
            async for piece in pieces:
                yield piece

    def _limit(self, variable_id: str, timeout_s: float | None) -> float:
        if timeout_s is not None:
            return timeout_s
        whole, _, _ = variable_id.rpartition("-")  # of an item of a list, and of a text before it is transformed
        expected = self._expected.get(variable_id) or self._expected.get(whole)
        return expected.timeout_s if expected is not None else self._timeout_s + GRACE_S

    # -- control -----------------------------------------------------------------------------------------------------

    async def mark(self, variables: str | SemanticVariable | Iterable[str | SemanticVariable], objective: Mark) -> None:
        """Say what is wanted of variables, whoever writes them and whenever. It replaces what was said before.

        A hint: a coordinator that takes over is told again while this session is open. What must last longer is said by
        `Output(objective=...)`.

        Args:
            variables: One or several, or their names.
            objective: `"latency"` (somebody waits for them), `"throughput"` (they only have to be finished), or an
                `Objective` with targets for each of them.

        Raises:
            ConfigurationError: The objective cannot be used; the message names the field and what it may be.
            CallError: A variable belongs to another session.
            InvalidName: A name cannot be used.
            NoResponders: No coordinator is running.
            SessionClosed: The session has ended.
        """
        self._check_open()
        checked = check_mark(objective)
        several = [variables] if isinstance(variables, str | SemanticVariable) else variables
        names = [self._name(variable) for variable in several]
        self._awaited.marked(names)
        await self.flush()
        await self._control.mark(names, checked)
        self._marks.keep(names, checked)

    def _name(self, variable: str | SemanticVariable) -> str:
        if isinstance(variable, str):
            return check_name("variable", variable)
        if (variable.session.tenant, variable.session.name) != (self.tenant, self.name):
            raise CallError(f"{variable!r} belongs to another session than {self.name!r}; name it in its own session")
        return variable.id

    async def cancel(self, variable_id: str = "") -> int:
        """Give up the task that writes a variable, or all unfinished tasks; returns how many there were.

        Raises:
            NoResponders: No coordinator is running.
            SessionClosed: The session has ended.
        """
        self._check_open()
        variables = [check_name("variable", variable_id)] if variable_id else []
        await self.flush()
        return await self._control.cancel(variables)

    async def close(self) -> int:
        """End the session on the server: its tasks are cancelled and its values removed. Nothing can be read any more.

        Returns:
            How many tasks were cancelled.

        Raises:
            NoResponders: No coordinator is running.
            SessionClosed: The session has ended before.
        """
        self._check_open()
        self._is_closed = True  # from now on no call can get behind the request
        try:
            await self.flush()
            num_cancelled = await self._control.close()
        except BaseException:
            self._is_closed = False
            raise
        self._values.settle_all(self._closed_error())
        return num_cancelled

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Listen and, for a session of our own, tell the coordinator. `Client.session` calls this.

        Raises:
            NoResponders: No coordinator is running.
        """
        self._outbox.start(group)
        self._marks.start(group)
        self._awaited.start(group)
        await self._values.start()
        self._rereader = group.create_task(self._values.reread(), name=f"session-{self.name}:reread")
        self._has_started = True
        if self._is_own:
            await self._control.open()

    async def stop(self) -> None:
        """Take no more calls, close a session of our own, and wake whoever still waits."""
        was_closed, self._is_closed = self._is_closed, True
        if not self._has_started:
            return
        try:
            await self.flush()
            if self._is_own and not was_closed:
                with suppress(ParrotError):  # values that stay behind expire by themselves
                    await self._control.close()
        finally:
            self._rereader.cancel()
            self._marks.stop()
            await self._values.aclose(self._closed_error())

    def _check_open(self) -> None:
        if self._is_closed:
            raise SessionClosed(session=self.name)

    def _closed_error(self) -> ErrorInfo:
        return ErrorInfo.from_error(SessionClosed(session=self.name))

    def __repr__(self) -> str:
        return f"<Session {self.name!r} of tenant {self.tenant!r}>"
