"""What the events of a session tell, kept up to date: the state of every output, and sums by stage."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from parrot_mq.messages import TaskEvent

__all__ = ["OutputRecord", "Recorder", "StageSummary"]

ORDER = ("submitted", "ready", "assigned", "started", "finished", "failed", "rejected")


@dataclass(slots=True)
class OutputRecord:
    """One output: its stage (the semantic function), its latest event, and what it took.

    Attributes:
        state: The kind of the latest event in the life of the output.
        at: Seconds since 1970 of each kind of event.
    """

    stage: str = ""
    state: str = "submitted"
    at: dict[str, float] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    batch: str = ""
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StageSummary:
    """Sums over the outputs of one semantic function; `duration_s` runs from the first ready to the last finished."""

    stage: str
    num_tasks: int
    num_batches: int
    num_prompt_tokens: int
    num_shared_tokens: int
    num_output_tokens: int
    duration_s: float


class Recorder:
    """Keeps the events of one session. They may come in any order: an earlier kind never undoes a later one."""

    def __init__(self) -> None:
        self.outputs: dict[str, OutputRecord] = {}
        self._changed = asyncio.Event()

    def add(self, event: TaskEvent) -> None:
        """Take in one event."""
        if not event.variable:
            return
        output = self.outputs.setdefault(event.variable, OutputRecord())
        output.at[event.kind] = event.at
        if ORDER.index(event.kind) >= ORDER.index(output.state):
            output.state = event.kind
        output.stage = event.function or output.stage
        output.reads = event.reads or output.reads
        output.batch = event.batch or output.batch
        output.num_prompt_tokens = event.num_prompt_tokens or output.num_prompt_tokens
        output.num_shared_tokens = event.num_shared_tokens or output.num_shared_tokens
        output.num_output_tokens = event.num_output_tokens or output.num_output_tokens
        self._changed.set()

    async def wait_complete(self, timeout_s: float) -> bool:
        """Wait until every output that was seen has ended; returns whether they have within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_complete:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    @property
    def is_complete(self) -> bool:
        """Whether every output that was seen has ended."""
        return all(output.state in ("finished", "failed", "rejected") for output in self.outputs.values())

    def stages(self) -> dict[str, list[OutputRecord]]:
        """The outputs by stage, in the order of submission."""
        stages: dict[str, list[OutputRecord]] = {}
        for output in self.outputs.values():
            stages.setdefault(output.stage, []).append(output)
        return stages

    def summaries(self) -> list[StageSummary]:
        """Sums by stage, and over all in a last row called `all`."""
        rows = [_summarise(stage, outputs) for stage, outputs in self.stages().items()]
        return [*rows, _summarise("all", list(self.outputs.values()))]


def _summarise(stage: str, outputs: list[OutputRecord]) -> StageSummary:
    starts = [output.at["ready"] for output in outputs if "ready" in output.at]
    ends = [output.at["finished"] for output in outputs if "finished" in output.at]
    return StageSummary(
        stage=stage,
        num_tasks=len(outputs),
        num_batches=len({output.batch for output in outputs if output.batch}),
        num_prompt_tokens=sum(output.num_prompt_tokens for output in outputs),
        num_shared_tokens=sum(output.num_shared_tokens for output in outputs),
        num_output_tokens=sum(output.num_output_tokens for output in outputs),
        duration_s=max(ends) - min(starts) if starts and ends else 0.0,
    )
