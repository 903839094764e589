"""A session: where calls go and variables live."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass

from parrot_mq.bus import Bus, fetch_text, set_variable
from parrot_mq.client.streaming import stream_text
from parrot_mq.client.values import SessionValues
from parrot_mq.errors import CapacityExhausted, NoResponders, ParrotError, SessionClosed
from parrot_mq.messages import (
    CONTENT_MSGPACK,
    HEADER_CONTENT_TYPE,
    HEADER_SCHEMA,
    HEADER_STATUS,
    SCHEMA_VERSION,
    STATUS_ERROR,
    ErrorInfo,
    InputValue,
    Message,
    OutputSpec,
    PromptTask,
    SessionCancel,
    SessionClose,
    SessionOpen,
    SessionReply,
    VariableAddress,
    VariableRef,
    control_subject,
    decode,
    encode,
    task_subject,
)
from parrot_mq.program import Call, InputText, SemanticVariable
from parrot_mq.types import SessionId, TenantId, VariableId, check_name, fresh_id

__all__ = ["Session"]

CONTROL_TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 10.0
GRACE_S = 5.0
"""How much longer than a task's own time a client waits: the server's word on it should arrive first."""
MAX_UNSENT = 65_536
MAX_INLINE_INPUT = 16 * 1024
"""Longer texts are set as variables of their own: sent once, and never too large for a task."""
STRUCTURED = {HEADER_CONTENT_TYPE: CONTENT_MSGPACK, HEADER_SCHEMA: SCHEMA_VERSION}


@dataclass(frozen=True, slots=True)
class Submission:
    """A task on its way: its record, and the texts that go ahead of it as variables."""

    task: str
    record: PromptTask
    texts: dict[str, str]


class Session:
    """Takes calls, waits for values. Open it with `Client.session`.

    Calls return at once: what they submit is sent in the background, and runs as soon as it can, whether or not anyone
    waits for it.

    Attributes:
        name: The session's name; with the tenant it is the address of its variables.
        tenant: The tenant.
    """

    def __init__(self, bus: Bus, *, tenant: str, name: str, model: str, timeout_s: float, is_own: bool) -> None:
        self.tenant = check_name("tenant", tenant)
        self.name = check_name("session", name)
        self._bus = bus
        self._model = model
        self._timeout_s = timeout_s
        self._is_own = is_own
        self._values = SessionValues(bus, TenantId(tenant), SessionId(name))
        self._timeouts: dict[str, float] = {}
        self._counter = itertools.count(1)
        self._num_unsent = 0
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._has_started = self._is_closed = False

    # -- calls -------------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> tuple[SemanticVariable, ...]:
        """Take a call; its task is sent in the background. Semantic functions call this.

        Raises:
            SessionClosed: The session has ended.
            CapacityExhausted: Too many calls wait to be sent; `await session.flush()` in between.
        """
        self._check_open()
        if self._num_unsent >= MAX_UNSENT:
            raise CapacityExhausted(f"{MAX_UNSENT} calls wait to be sent; `await session.flush()` in between")
        names = {output: call.names.get(output) or self._fresh(output) for output in call.spec.outputs}
        timeout_s = call.timeout_s if call.timeout_s is not None else self._timeout_s
        submission = self._to_submission(call, names, timeout_s)
        for name in names.values():
            self._values.expect(name)
            self._timeouts[name] = timeout_s + GRACE_S
        self._spawn(self._send(submission, list(names.values())))
        return tuple(SemanticVariable(self, name) for name in names.values())

    async def flush(self) -> None:
        """Wait until every call so far has been stored by the server, or has failed."""
        await self._all_sent.wait()

    def _to_submission(self, call: Call, names: dict[str, str], timeout_s: float) -> Submission:
        texts: dict[str, str] = {}
        record = PromptTask(
            template=call.template,
            inputs={name: self._to_wire(value, texts) for name, value in call.inputs.items()},
            outputs={o: OutputSpec(variable=names[o], sampling=call.spec.outputs[o]) for o in call.spec.outputs},
            separators=call.separators,
            model=call.model or self._model,
            timeout_s=timeout_s,
            function=call.name,
        )
        return Submission(self._fresh(call.name), record, texts)

    def _to_wire(self, value: InputText, texts: dict[str, str]) -> InputValue:
        if isinstance(value, tuple):
            return [self._item_to_wire(item, texts) for item in value]
        return self._item_to_wire(value, texts)

    def _item_to_wire(self, item: str | SemanticVariable, texts: dict[str, str]) -> str | VariableRef:
        if isinstance(item, SemanticVariable):
            return VariableRef(item.id)
        if len(item) <= MAX_INLINE_INPUT:
            return item
        name = self._fresh("text")
        texts[name] = item
        return VariableRef(name)

    async def _send(self, submission: Submission, outputs: list[str]) -> None:
        try:
            for name, text in submission.texts.items():
                await set_variable(self._bus, self._address(name), text)
            subject = task_subject(self.tenant, self.name, submission.task)
            await self._bus.publish_once(subject, encode(submission.record), headers=STRUCTURED)
        except ParrotError as error:
            self._values.settle(outputs, ErrorInfo.from_error(error))

    def _fresh(self, stem: str) -> str:
        """A name that is new in the session; in one that is ours alone a number is enough."""
        return f"{stem[:40]}-{next(self._counter)}" if self._is_own else fresh_id(stem[:40])

    # -- variables ---------------------------------------------------------------------------------------------------

    def variable(self, name: str) -> SemanticVariable:
        """Any variable of the session, whoever sets it.

        Raises:
            InvalidName: The name cannot be used.
        """
        return SemanticVariable(self, check_name("variable", name))

    async def set(self, variable_id: str, text: str) -> None:
        """Set a variable, once; returns when the value is stored.

        Raises:
            VariableAlreadySet: It has another value.
        """
        await set_variable(self._bus, self._address(variable_id), text)

    async def get(self, variable_id: str, timeout_s: float | None = None) -> str:
        """Wait for a value.

        Args:
            timeout_s: Seconds to wait; by default a little longer than the task that writes it may take.

        Raises:
            DeadlineExceeded: It was not there in time.
            ParrotError: The variable failed; the error says why.
        """
        value = await self._values.wait(variable_id, self._limit(variable_id, timeout_s))
        return await fetch_text(self._bus, self.tenant, value)

    async def stream(self, variable_id: str, timeout_s: float | None = None) -> AsyncIterator[str]:
        """Yield the text of a variable in pieces while it is generated; errors as for `get`."""
        future = await self._values.future(variable_id)
        limit_s = self._limit(variable_id, timeout_s)
        async for piece in stream_text(self._bus, self.tenant, self.name, variable_id, future, limit_s):
            yield piece

    def _limit(self, variable_id: str, timeout_s: float | None) -> float:
        return timeout_s if timeout_s is not None else self._timeouts.get(variable_id, self._timeout_s + GRACE_S)

    def _address(self, variable_id: str) -> VariableAddress:
        return VariableAddress(TenantId(self.tenant), SessionId(self.name), VariableId(variable_id))

    # -- control -----------------------------------------------------------------------------------------------------

    async def cancel(self, variable_id: str = "") -> int:
        """Give up the task that writes a variable, or all unfinished tasks; returns how many there were.

        Raises:
            NoResponders: No coordinator is running.
        """
        await self.flush()
        variables = [variable_id] if variable_id else []
        return (await self._ask("cancel", SessionCancel(variables=variables))).num_cancelled

    async def close(self) -> int:
        """End the session on the server: its tasks are cancelled and its values removed.

        Returns:
            How many tasks were cancelled.

        Raises:
            NoResponders: No coordinator is running.
        """
        await self.flush()
        return (await self._ask("close", SessionClose())).num_cancelled

    async def _ask(self, verb: str, request: Message, timeout_s: float = CONTROL_TIMEOUT_S) -> SessionReply:
        subject = control_subject(self.tenant, self.name, verb)
        try:
            reply = await self._bus.request(subject, encode(request), headers=STRUCTURED, timeout_s=timeout_s)
        except NoResponders as error:
            remedy = "no coordinator is running; start one with `parrot-mq up` or `parrot-mq coordinator`"
            raise NoResponders(subject=subject, remedy=remedy) from error
        if reply.headers.get(HEADER_STATUS) == STATUS_ERROR:
            raise decode(reply.payload, ErrorInfo, reply.headers).to_error()
        return decode(reply.payload, SessionReply, reply.headers)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Listen and, for a session of our own, tell the coordinator. `Client.session` calls this.

        Raises:
            NoResponders: No coordinator is running.
        """
        self._group = group
        await self._values.start()
        self._rereader = group.create_task(self._values.reread(), name=f"session-{self.name}:reread")
        self._has_started = True
        if self._is_own:
            await self._open()

    async def stop(self) -> None:
        """Take no more calls, close a session of our own, and wake whoever still waits."""
        self._is_closed = True
        if not self._has_started:
            return
        try:
            await self.flush()
            if self._is_own:
                await self._close_quietly()
        finally:
            self._rereader.cancel()
            await self._values.aclose(ErrorInfo.from_error(SessionClosed(session=self.name)))

    async def _open(self) -> None:
        """Announce the session; a coordinator that is just starting gets some time."""
        for delay_s in (0.1, 0.2, 0.4, 0.8, 1.6):
            try:
                await self._ask("open", SessionOpen(), OPEN_TIMEOUT_S)
                return
            except NoResponders:
                await asyncio.sleep(delay_s)
        await self._ask("open", SessionOpen(), OPEN_TIMEOUT_S)

    async def _close_quietly(self) -> None:
        """Close on the server if it can be reached; values that stay behind expire by themselves."""
        with suppress(ParrotError):
            await self._ask("close", SessionClose())

    def _check_open(self) -> None:
        if self._is_closed:
            raise SessionClosed(session=self.name)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._num_unsent += 1
        self._all_sent.clear()
        self._group.create_task(work, name=f"session-{self.name}:send").add_done_callback(self._sent)

    def _sent(self, _: asyncio.Task[None]) -> None:
        self._num_unsent -= 1
        if not self._num_unsent:
            self._all_sent.set()

    def __repr__(self) -> str:
        return f"<Session {self.name!r} of tenant {self.tenant!r}>"
