"""Random programs of real clients, and how each of their variables may end."""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import suppress
from dataclasses import dataclass, field

from parrot_mq import Input, Output, semantic_function
from parrot_mq.bus import Link
from parrot_mq.client import Session
from parrot_mq.errors import DeadlineExceeded, EngineFailure, InputFailed, ParrotError, QuotaExceeded, TaskCancelled
from parrot_mq.program import SemanticVariable

__all__ = ["RandomProgram", "Written", "answer", "describe"]

VALUE = "value"
MAX_TOKENS = 24


@semantic_function
def single(name: Input, reads: Input, out: Output = Output(max_tokens=MAX_TOKENS)) -> None:
    """{{name}} reads {{reads}}, writes {{out}}"""


@semantic_function
def pair(
    name: Input,
    reads: Input,
    one: Output = Output(max_tokens=MAX_TOKENS),
    two: Output = Output(max_tokens=MAX_TOKENS),
) -> None:
    """{{name}} reads {{reads}}, writes {{one}}, and then {{two}}"""


def answer(prompt: str) -> str:
    """What every worker writes for a prompt: 1 to 24 tokens, or a failure where the prompt says FAIL at its end."""
    digest = hashlib.shake_128(prompt.encode()).hexdigest(2 * MAX_TOKENS)
    if "FAIL" in prompt.partition(" reads ")[0]:
        raise EngineFailure(cause="the prompt says so")
    return digest[: 4 * (1 + int(digest[:4], 16) % MAX_TOKENS)]


def describe(outcome: str | ParrotError) -> str:
    """How a variable ended: `value`, or the code of its error; if an input failed, that of the first cause."""
    if isinstance(outcome, str):
        return VALUE
    return f"input: {outcome.facts['cause_code']}" if isinstance(outcome, InputFailed) else outcome.code


@dataclass(slots=True)
class Written:
    """A variable that a program writes.

    Attributes:
        text: What it holds if nothing goes wrong.
        may_end: In the words of `describe`.
        task: Which task writes it.
        reads: What that task reads.
    """

    variable: SemanticVariable
    text: str
    may_end: set[str]
    task: int
    reads: list[Written]


@dataclass(slots=True)
class RandomProgram:
    """Submits tasks that read each other's outputs, waits for some, goes on with what it has learned, cancels a few.

    Attributes:
        session: Where it runs.
        rng: Decides what it does.
        num_tasks: How much it submits.
        link: Its client's way to the server.
        has_quota: Whether it may have more than its tenant may have unfinished.
        written: All variables that its tasks write.
    """

    session: Session
    rng: random.Random
    num_tasks: int
    link: Link
    has_quota: bool = False
    written: list[Written] = field(default_factory=list)

    async def run(self) -> None:
        """Do what the seed says."""
        rng = self.rng
        for number in range(self.num_tasks):
            self._submit(number)
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice([0.01, 0.3, 1.0]))
            act = rng.random()
            if act < 0.10:
                await self._await(rng.choice(self.written))
            elif act < 0.15:
                await self._stream(rng.choice(self.written))
            elif act < 0.20:
                await self._cancel(rng.choice(self.written))
            elif act < 0.30:
                await self._mark(rng.choice(self.written))
        await self.session.flush()

    def _submit(self, number: int) -> None:
        rng = self.rng
        reads = rng.sample(self.written, min(len(self.written), rng.choice([0, 1, 1, 2, 3])))
        name = f"task {number} of {self.session.name}{' FAIL' if rng.random() < 0.05 else ''}"
        timeout_s = rng.choice([0.5, 2.0, 5.0]) if rng.random() < 0.1 else None
        function = pair if rng.random() < 0.25 else single
        values: list[str | SemanticVariable] = ["nothing", *(each.variable for each in reads)]
        variables = function.using(timeout_s=timeout_s, session=self.session).outputs(name, values)
        ends = {VALUE} if all(VALUE in each.may_end for each in reads) else set()
        ends |= {_as_input(end) for each in reads for end in each.may_end if end != VALUE}
        if timeout_s is not None:
            ends |= {DeadlineExceeded.code}
        if self.has_quota:
            ends |= {QuotaExceeded.code}
        prompt = f"{name} reads {chr(10).join(['nothing', *(each.text for each in reads)])}, writes "
        for index, variable in enumerate(variables):
            if index:
                prompt += ", and then "
                ends = ends | {_as_input(end) for end in ends if end != VALUE}
            if "FAIL" in name:
                ends = ends - {VALUE} | {EngineFailure.code}
            text = "" if "FAIL" in name else answer(prompt)
            self.written.append(Written(variable, text, set(ends), number, reads))
            prompt += text

    async def _await(self, written: Written) -> None:
        outcome = await outcome_of(written)
        assert describe(outcome) in written.may_end, f"{written.variable!r} ended as {outcome!r}"

    async def _stream(self, written: Written) -> None:
        error: ParrotError | None = None
        pieces: list[str] = []
        try:
            pieces += [piece async for piece in written.variable.stream(timeout_s=300)]
        except ParrotError as failure:
            error = failure
        assert describe(error or "") in written.may_end, f"{written.variable!r} ended as {error!r}"
        assert error or "".join(pieces) == written.text

    async def _cancel(self, written: Written) -> None:
        """Give up a task. A request may be lost; then nobody knows whether it was carried out."""
        failing = {each.task for each in self.written if each.task == written.task}
        for each in self.written:
            if each.task == written.task:
                each.may_end |= {TaskCancelled.code, _as_input(TaskCancelled.code)}
            elif any(read.task in failing for read in each.reads):
                each.may_end.add(_as_input(TaskCancelled.code))
                failing.add(each.task)
        with suppress(ParrotError, TimeoutError):
            async with asyncio.timeout(10):
                await written.variable.cancel()

    async def _mark(self, written: Written) -> None:
        """What is said may be lost; it is a hint."""
        with suppress(ParrotError, TimeoutError):
            async with asyncio.timeout(10):
                await written.variable.mark(self.rng.choice(["latency", "throughput"]))


async def outcome_of(written: Written) -> str | ParrotError:
    """The text of a variable, or its error."""
    try:
        return await written.variable.get(timeout_s=300)
    except ParrotError as error:
        return error


def _as_input(end: str) -> str:
    """How it ends for a reader."""
    return end if end.startswith("input: ") else f"input: {end}"
