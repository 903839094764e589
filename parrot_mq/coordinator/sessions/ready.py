"""What is ready: a generation that a worker can run, a call that a native function can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from parrot_mq.messages import BlobRef, Generation, TaskAddress, VariableAddress
from parrot_mq.observability import TraceContext
from parrot_mq.program import Standing
from parrot_mq.types import Sampling, TaskId

__all__ = ["Known", "ReadyCall", "ReadyGeneration"]

Known = str | BlobRef
"""A value that can be part of a prompt."""


@dataclass(frozen=True, slots=True)
class ReadyGeneration:
    """A generation whose whole prompt is known.

    Attributes:
        address: The variable that it fills.
        task: The task that it belongs to.
        model: Who generates.
        segments: The prompt, cut at placeholder boundaries; large values as claim checks.
        prefix_hashes: Hash of all content up to and including each segment, hex.
        sampling: How to generate.
        deadline: Seconds since 1970; not started after this.
        standing: What is wanted of it, and its place in its program.
        salt: Generations with different salts share no cache.
        attempt: Which attempt the next assignment is; 1 is the first.
        output_ids: Tokens that earlier attempts generated.
    """

    address: VariableAddress
    task: TaskId
    model: str
    segments: tuple[Known, ...]
    prefix_hashes: tuple[str, ...]
    sampling: Sampling
    deadline: float
    standing: Standing = Standing()
    salt: str = ""
    attempt: int = 1
    output_ids: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Names the generation everywhere, as `messages.Generation.key` does."""
        return ".".join(self.address)

    @property
    def task_address(self) -> TaskAddress:
        """Where its task was submitted."""
        return TaskAddress(self.address.tenant, self.address.session, self.task)

    def next_attempt(self) -> ReadyGeneration:
        """The same generation, to be assigned once more."""
        return replace(self, attempt=self.attempt + 1)

    def to_wire(self, prompt: list[int], trace: TraceContext | None = None) -> Generation:
        """The generation as it travels.

        Args:
            prompt: Indices into the segments that travel with it.
            trace: Where it belongs in a trace.
        """
        tenant, session, variable = self.address
        return Generation(
            tenant=tenant,
            session=session,
            task=self.task,
            variable=variable,
            attempt=self.attempt,
            prompt=prompt,
            prefix_hashes=list(self.prefix_hashes),
            sampling=self.sampling,
            deadline=self.deadline,
            objective=self.standing.objective,
            salt=self.salt,
            output_ids=list(self.output_ids),
            trace=trace.parent if trace is not None else "",
            trace_state=trace.state if trace is not None else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call of a native function whose arguments are all known.

    Attributes:
        address: The variable that the answer fills.
        task: The task that it belongs to.
        function: Name of the function.
        arguments: The arguments by name; large values as claim checks.
        outputs: Names of its results. Of several the answer is a JSON object with a text for each.
        deadline: Seconds since 1970; nobody waits for an answer after this.
        attempt_timeout_s: Seconds that one attempt may take.
        max_attempts: How often it is attempted at most.
    """

    address: VariableAddress
    task: TaskId
    function: str
    arguments: Mapping[str, Known]
    outputs: tuple[str, ...]
    deadline: float
    attempt_timeout_s: float
    max_attempts: int

    @property
    def key(self) -> str:
        """Names the call everywhere, as `messages.NativeCall.call` does."""
        return ".".join(self.address)

    @property
    def task_address(self) -> TaskAddress:
        """Where its task was submitted."""
        return TaskAddress(self.address.tenant, self.address.session, self.task)
