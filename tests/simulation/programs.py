"""Random programs of real clients, and how each of their variables may end."""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import suppress
from dataclasses import dataclass, field

from parrot_mq import Input, JsonPointer, Output, Split, Strip, semantic_function
from parrot_mq.bus import Link
from parrot_mq.client import Session
from parrot_mq.errors import (
    DeadlineExceeded,
    EngineFailure,
    InputFailed,
    ParrotError,
    QuotaExceeded,
    TaskCancelled,
    TransformError,
)
from parrot_mq.program import SemanticVariable
from parrot_mq.program.transforms import apply_transforms, encode_list

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


@semantic_function
def guess(name: Input, reads: Input, out: Output = Output(max_tokens=MAX_TOKENS, transform=JsonPointer())) -> None:
    """{{name}} reads {{reads}}, writes {{out}}"""


@semantic_function
def listing(
    name: Input, reads: Input, out: Output = Output(max_tokens=MAX_TOKENS, transform=[Split("7"), Strip("0")])
) -> None:
    """{{name}} reads {{reads}}, writes {{out}}"""


@semantic_function
def each(name: Input, item: Input, reads: Input, out: Output = Output(max_tokens=MAX_TOKENS)) -> None:
    """{{name}} reads {{item}} and {{reads}}, writes {{out}}"""


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
        items: What it holds, if it is a list.
    """

    variable: SemanticVariable
    text: str
    may_end: set[str]
    task: int
    reads: list[Written]
    items: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What all kinds of calls have.

    Attributes:
        name: What its prompts begin with.
        reads: What it reads, as one list.
        timeout_s: How long its task may take, if that is said.
        own_ends: How it may end by itself, besides its value.
    """

    name: str
    reads: list[Written]
    timeout_s: float | None
    own_ends: set[str]

    @property
    def values(self) -> list[str | SemanticVariable]:
        """The argument."""
        return ["nothing", *(each.variable for each in self.reads)]

    @property
    def text(self) -> str:
        """What stands for it in a prompt."""
        return "\n".join(["nothing", *(each.text for each in self.reads)])

    @property
    def ends(self) -> set[str]:
        """How it may end, if it does not fail."""
        ends = {VALUE} if all(VALUE in each.may_end for each in self.reads) else set()
        return ends | self.own_ends | {_as_input(end) for each in self.reads for end in each.may_end if end != VALUE}


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
            if rng.random() < 0.2:
                self._submit_list(number)
            elif rng.random() < 0.2 and any(each.items is not None for each in self.written):
                self._submit_map(number)
            else:
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
        call = self._draw(number)
        function = pair if self.rng.random() < 0.25 else single
        variables = function.using(timeout_s=call.timeout_s, session=self.session).outputs(call.name, call.values)
        name, reads, prompt, ends = call.name, call.reads, f"{call.name} reads {call.text}, writes ", call.ends
        for index, variable in enumerate(variables):
            if index:
                prompt += ", and then "
                ends = ends | {_as_input(end) for end in ends if end != VALUE}
            if "FAIL" in name:
                ends = ends - {VALUE} | {EngineFailure.code}
            text = "" if "FAIL" in name else answer(prompt)
            self.written.append(Written(variable, text, set(ends), number, reads))
            prompt += text

    def _submit_list(self, number: int) -> None:
        """A call whose output is transformed, often into a list."""
        call = self._draw(number)
        function = guess if self.rng.random() < 0.2 else listing
        variable = function.using(timeout_s=call.timeout_s, session=self.session)(call.name, call.values)
        ends, items, text = call.ends, None, ""
        if "FAIL" in call.name:
            ends = ends - {VALUE} | {EngineFailure.code}
        else:
            try:
                made = apply_transforms(
                    function.spec.transforms["out"], answer(f"{call.name} reads {call.text}, writes ")
                )
                text, items = (made, None) if isinstance(made, str) else (encode_list(made), made)
            except TransformError as error:
                ends = ends - {VALUE} | {error.code}
        self._keep(variable, text, ends, number, call.reads, items)

    def _submit_map(self, number: int) -> None:
        """A call for each item of a list."""
        call = self._draw(number)
        over = self.rng.choice([each for each in self.written if each.items is not None])
        assert over.items is not None
        function = each.using(timeout_s=call.timeout_s, session=self.session)
        variable = function.map(call.name, over.variable.as_list(), call.values)
        ends = {VALUE} if not over.items else call.ends  # without items nothing else is read
        if "FAIL" in call.name and over.items:
            ends = ends - {VALUE} | {EngineFailure.code}
        if VALUE not in over.may_end:
            ends = ends - {VALUE}
        ends = ends | call.own_ends | {_as_input(end) for end in over.may_end if end != VALUE}
        items = (
            []
            if "FAIL" in call.name
            else [answer(f"{call.name} reads {item} and {call.text}, writes ") for item in over.items]
        )
        self._keep(variable, encode_list(items), ends, number, [over, *call.reads], items)

    def _keep(
        self,
        variable: SemanticVariable,
        text: str,
        ends: set[str],
        number: int,
        reads: list[Written],
        items: list[str] | None,
    ) -> None:
        """What is written as a list is looked at as its text, as any reader of the bus would."""
        plain = self.session.variable(variable.id)
        self.written.append(Written(plain, text, set(ends), number, reads, items))

    def _draw(self, number: int) -> _Call:
        rng = self.rng
        reads = rng.sample(self.written, min(len(self.written), rng.choice([0, 1, 1, 2, 3])))
        timeout_s = rng.choice([0.5, 2.0, 5.0]) if rng.random() < 0.1 else None
        own_ends = {DeadlineExceeded.code} if timeout_s is not None else set()
        return _Call(
            name=f"task {number} of {self.session.name}{' FAIL' if rng.random() < 0.05 else ''}",
            reads=reads,
            timeout_s=timeout_s,
            own_ends=own_ends | ({QuotaExceeded.code} if self.has_quota else set()),
        )

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
