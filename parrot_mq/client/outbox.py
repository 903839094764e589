"""Sends submissions in the background."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from parrot_mq.bus import Bus, fail_variable, set_variable
from parrot_mq.client.control import STRUCTURED
from parrot_mq.client.submission import Submission
from parrot_mq.client.values import SessionValues
from parrot_mq.errors import CapacityExhausted, ParrotError
from parrot_mq.messages import ErrorInfo, VariableAddress, encode, task_subject
from parrot_mq.observability import current_trace, trace_headers
from parrot_mq.tasks import task_group
from parrot_mq.types import SessionId, TenantId, VariableId

__all__ = ["Outbox"]

MAX_UNSENT = 65_536


class Outbox:
    """Stores tasks, each after its long texts; whoever waits for one that cannot be stored learns why."""

    def __init__(self, bus: Bus, tenant: TenantId, session: SessionId, values: SessionValues) -> None:
        self._bus = bus
        self._tenant = tenant
        self._session = session
        self._values = values
        self._texts: set[str] = set()  # names of long texts that were sent, or are on their way
        self._num_unsent = 0
        self._all_sent = asyncio.Event()
        self._all_sent.set()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Send with tasks of `group` from now on."""
        self._group = group

    def check_room(self) -> None:
        """Raise `CapacityExhausted` if too much waits to be sent."""
        if self._num_unsent >= MAX_UNSENT:
            raise CapacityExhausted(f"{MAX_UNSENT} calls wait to be sent; `await session.flush()` in between")

    def send(self, submission: Submission) -> None:
        """Begin to send. The task belongs to the trace of what runs now."""
        self._num_unsent += 1
        self._all_sent.clear()
        name = f"session-{self._session}:send"
        sending = self._send(submission, {**STRUCTURED, **trace_headers(current_trace())})
        self._group.create_task(sending, name=name).add_done_callback(self._on_sent)

    async def flush(self) -> None:
        """Wait until all is sent, or has failed."""
        await self._all_sent.wait()

    def _on_sent(self, _: asyncio.Task[None]) -> None:
        self._num_unsent -= 1
        if not self._num_unsent:
            self._all_sent.set()

    async def _send(self, submission: Submission, headers: dict[str, str]) -> None:
        new = submission.texts.keys() - self._texts
        self._texts |= new
        try:
            if new:
                await self._set_all({name: submission.texts[name] for name in new})
            subject = task_subject(self._tenant, self._session, submission.task)
            await self._bus.publish_once(subject, encode(submission.record), headers=headers)
        except ParrotError as error:
            self._texts -= new
            await self._give_up([*new, *submission.outputs], error)

    async def _set_all(self, texts: dict[str, str]) -> None:
        async with task_group() as group:
            for name, text in texts.items():
                group.create_task(set_variable(self._bus, self._address(name), text), name=f"set:{name}")

    async def _give_up(self, variables: list[str], error: ParrotError) -> None:
        """Tell who waits, here and if possible everywhere."""
        self._values.settle(variables, ErrorInfo.from_error(error))
        async with task_group() as group:
            for name in variables:
                group.create_task(self._fail(name, error), name=f"fail:{name}")

    async def _fail(self, variable: str, error: ParrotError) -> None:
        with suppress(ParrotError):
            await fail_variable(self._bus, self._address(variable), error)

    def _address(self, variable: str) -> VariableAddress:
        return VariableAddress(self._tenant, self._session, VariableId(variable))
