"""What a dispatcher knows of one worker: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from parrot_mq.coordinator.dispatch.job import Job, Size
from parrot_mq.coordinator.dispatch.load import WorkerLoad
from parrot_mq.coordinator.dispatch.step_time import StepTimeModel
from parrot_mq.messages import GenerationProgress, WorkerStatus

__all__ = ["Running", "Transcript", "WorkerLedger"]


@dataclass(slots=True)
class Transcript:
    """What a worker has generated of one output, by its heartbeats.

    Attributes:
        attempt: Which attempt the worker says it is; 0 if it has said nothing.
        output_ids: Tokens from the beginning of the output, without a gap.
        num_prompt_tokens: Tokens of its prompt; 0 until the worker has read it.
    """

    attempt: int = 0
    output_ids: list[int] = field(default_factory=list)
    num_prompt_tokens: int = 0

    def note(self, progress: GenerationProgress) -> None:
        """Take in what a heartbeat says; what does not join to what is known is left out, for it will be said again."""
        self.num_prompt_tokens = progress.num_prompt_tokens or self.num_prompt_tokens
        if progress.begin and (progress.begin > len(self.output_ids) or progress.attempt != self.attempt):
            return
        end = progress.begin + len(progress.output_ids)
        if progress.attempt == self.attempt and end <= len(self.output_ids):
            return  # an older word
        self.attempt = progress.attempt
        self.output_ids[progress.begin :] = progress.output_ids


@dataclass(slots=True)
class Running:
    """A job at a worker.

    Attributes:
        size: How large it was expected to be when it was sent there.
        num_charged: Tokens that its tenant has paid.
        since: When it was sent there (monotonic seconds).
        transcript: What is there of its output.
        num_missed: Heartbeats in a row, once it should have arrived, that did not name it.
    """

    job: Job
    size: Size
    num_charged: float
    since: float
    transcript: Transcript
    num_missed: int = 0


@dataclass(slots=True)
class WorkerLedger:
    """What one worker has: its own words, and what was assigned to it."""

    status: WorkerStatus
    load: WorkerLoad
    step_time: StepTimeModel = field(default_factory=StepTimeModel)
    running: dict[str, Running] = field(default_factory=dict)
    adopted: dict[str, Transcript] = field(default_factory=dict)
    """By key: what it runs for an earlier coordinator, and nobody has enqueued here yet."""
    is_suspended: bool = False
    """It gave work back or could not be reached; it gets no more before it is heard of again."""
    pinned: frozenset[str] | None = None
    """The prefixes that it was told to keep; None if it was told nothing since it began."""

    @property
    def worker(self) -> str:
        """The worker's id."""
        return self.status.worker

    @property
    def is_open(self) -> bool:
        """Whether it takes work, if it has room."""
        return self.status.state == "ready" and not self.is_suspended

    @property
    def num_free(self) -> int:
        """How many generations it takes now."""
        return self.status.num_slots - len(self.running) - len(self.adopted) if self.is_open else 0

    @property
    def capacity(self) -> int:
        """Tokens that its cache holds; 0 if it keeps no prefixes, as far as it has said."""
        engine = self.status.engine
        return engine.page_size * engine.num_pages if engine is not None else 0

    @property
    def can_pin(self) -> bool:
        """Whether it keeps prefixes, as far as it has said."""
        return self.status.state in ("ready", "standby", "draining") and self.capacity > 0

    def hear(self, status: WorkerStatus) -> int:
        """Take in a heartbeat. Returns the tokens that its cache has given up since the last one."""
        former, self.status = self.status, status
        self.is_suspended = False
        if status.state == "loading":
            self.step_time = StepTimeModel()
        num_evicted = 0
        if status.engine is not None:
            self.step_time.learn(status.engine)
            if former.engine is not None:
                num_pages = status.engine.num_evicted_pages - former.engine.num_evicted_pages
                num_evicted = max(0, num_pages) * status.engine.page_size
        self.load.times = self.step_time.times
        self.load.capacity = self.capacity
        self.note_progress(status.progress)
        self.update_room()
        return num_evicted

    def note_progress(self, progress: Sequence[GenerationProgress]) -> None:
        """Take in how far it is with what it runs."""
        for each in progress:
            if (running := self.running.get(each.key)) is not None:
                running.transcript.note(each)
                self._note_load(running)
            elif (transcript := self.adopted.get(each.key)) is not None:
                transcript.note(each)

    def hold(self, running: Running, *, num_held: int) -> None:
        """A job is here from now on; `num_held` tokens of its prompt are in the cache."""
        self.running[running.job.key] = running
        self.load.add(running.job, running.size, num_held=num_held, now=running.since)
        self._note_load(running)
        self.update_room()

    def release(self, key: str) -> Running | None:
        """A job is not here any more; None if it was not."""
        running = self.running.pop(key, None)
        self.load.remove(key)
        self.update_room()
        return running

    def update_room(self) -> None:
        """Let the load know how many more generations there is room for."""
        self.load.num_free = self.num_free

    def _note_load(self, running: Running) -> None:
        num_new = len(running.transcript.output_ids) - len(running.job.generation.output_ids)
        if running.transcript.num_prompt_tokens or num_new > 0:
            self.load.progress(running.job.key, num_generated=max(0, num_new))

    def find_lost(self, *, sent_before: float) -> tuple[str, ...]:
        """Keys that were sent in time and that the worker, by its own words, does not have.

        Once is not enough: what it has just finished is not in its words, and the value may still be on its way here.
        """
        has = set(self.status.running)
        for key, running in self.running.items():
            is_missing = key not in has and running.since < sent_before
            running.num_missed = running.num_missed + 1 if is_missing else 0
        return tuple(key for key, running in self.running.items() if running.num_missed > 1)

    def check_integrity(self) -> None:
        """Assert that the load is that of what runs here."""
        assert not self.running.keys() & self.adopted.keys()
        assert len(self.load) == len(self.running)
        assert all(key in self.load for key in self.running)
        assert self.load.num_free == self.num_free
        assert self.load.worker == self.worker
        self.load.check_integrity()
