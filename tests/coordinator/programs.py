"""What tests submit: tasks as any client could publish them, and the words to read what came of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from parrot_mq.client import Session
from parrot_mq.errors import ParrotError
from parrot_mq.messages import (
    InputValue,
    NativeTask,
    OutputSpec,
    PromptTask,
    ResultSpec,
    TaskRecord,
    VariableRef,
    encode,
    task_subject,
    variable_subject,
)
from parrot_mq.types import Sampling, fresh_id
from tests.coordinator.service import WAIT_S, Service, raised_by

__all__ = ["Program", "native", "program", "ref", "task"]


def ref(variable: str) -> VariableRef:
    """Stands for a variable's value."""
    return VariableRef(variable)


def task(
    template: str,
    *,
    writes: Mapping[str, str] | str = "out",
    reads: Mapping[str, InputValue] | None = None,
    sampling: Sampling | None = None,
    **settings: Any,
) -> PromptTask:
    """A task; `writes` gives variables to the output placeholders, or to the only one, `{{out}}`."""
    names = {"out": writes} if isinstance(writes, str) else dict(writes)
    sampling = sampling or Sampling(max_tokens=10_000)
    outputs = {output: OutputSpec(variable=name, sampling=sampling) for output, name in names.items()}
    return PromptTask(template=template, inputs=dict(reads or {}), outputs=outputs, **settings)


def native(
    function: str | VariableRef,
    *,
    writes: Mapping[str, str] | str = "out",
    reads: Mapping[str, InputValue] | None = None,
    **settings: Any,
) -> NativeTask:
    """A call of a native function; `writes` as in `task`."""
    names = {"out": writes} if isinstance(writes, str) else dict(writes)
    outputs = {output: ResultSpec(variable=name) for output, name in names.items()}
    return NativeTask(function=function, inputs=dict(reads or {}), outputs=outputs, **settings)


class Program:
    """One session as seen from outside: what is published, and what can be read."""

    def __init__(self, service: Service, session: Session) -> None:
        self.service = service
        self.session = session
        self.name = session.name
        self.tenant = session.tenant

    async def submit(self, record: TaskRecord, *, name: str = "") -> str:
        """Publish a task; returns its name."""
        name = name or fresh_id("task")
        await self.service.bus.publish_once(task_subject(self.tenant, self.name, name), encode(record))
        return name

    async def run(self, template: str, **settings: Any) -> str:
        """Submit a task made by `task`; returns its name."""
        return await self.submit(task(template, **settings))

    async def call(self, function: str | VariableRef, **settings: Any) -> str:
        """Submit a call made by `native`; returns its name."""
        return await self.submit(native(function, **settings))

    async def set(self, variable: str, text: str) -> None:
        """Set a variable as any NATS client does: by publishing its text."""
        await self.service.bus.publish(variable_subject(self.tenant, self.name, variable), text.encode())

    async def get(self, variable: str, timeout_s: float = WAIT_S) -> str:
        """The value of a variable."""
        return await self.session.get(variable, timeout_s)

    async def error(self, variable: str, timeout_s: float = WAIT_S) -> ParrotError:
        """The error that a variable ends with."""
        return await raised_by(self.session.get(variable, timeout_s))

    def num_stored(self, variable: str) -> int:
        """How often a variable was stored."""
        return self.service.num_stored[f"{self.name}.{variable}"]


@asynccontextmanager
async def program(service: Service, name: str = "", *, tenant: str = "default") -> AsyncIterator[Program]:
    """A session of a service."""
    async with service.client(tenant).session(name or fresh_id("session")) as session:
        yield Program(service, session)
