"""Run a batcher over a cache without a model: pages hold the tokens themselves, so one sees what would be read."""

from __future__ import annotations

import random
from collections.abc import Sequence as SequenceOf

from parrot_workers.attention import SequenceSpan
from parrot_workers.engine import GenerationRequest, PrefillRequest
from parrot_workers.engine.batcher import Batcher, Step
from parrot_workers.engine.generation_state import GenerationState
from parrot_workers.engine.prefills import Prefill, PrefillQueue
from parrot_workers.engine.sequence import Sequence
from parrot_workers.engine.step_time import StepTimeModel
from parrot_workers.kv_cache import CacheManager

from parrot_mq.types import Sampling

__all__ = ["PagesOfTokens", "Simulation", "make_sequence"]

PAGE_SIZE = 4


def make_sequence(
    key: str,
    prompt: SequenceOf[int],
    *,
    max_tokens: int = 4,
    order: int = 0,
    salt: str = "",
    tpot_target_s: float | None = None,
) -> Sequence:
    request = GenerationRequest(
        key=key, prompt=tuple(prompt), sampling=Sampling(max_tokens=max_tokens), salt=salt, tpot_target_s=tpot_target_s
    )
    state = GenerationState(request, list(prompt), decode=lambda ids: "x" * len(ids), eos_token_ids=frozenset())
    return Sequence(state, order)


def _read(request: PrefillRequest) -> tuple[list[int], list[tuple[str, int]]]:
    token_ids = [token for token in request.prompt if isinstance(token, int)]
    return token_ids, list(zip(request.prefix_hashes, request.prefix_ends, strict=True))


class PagesOfTokens:
    """Stands for the pool: each slot holds the token whose keys and values would be there."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[int, int | None]] = {}  # slot -> position, token; none if it was not read yet

    def run(self, step: Step) -> None:
        """Copy, write, then see that every span reads its own tokens, and that none of them is missing."""
        for copy in step.copies:
            source, target = copy.source * PAGE_SIZE, copy.target * PAGE_SIZE
            for offset in range(copy.num_tokens):
                self._slots[target + offset] = self._slots[source + offset]
        written: set[int] = set()
        for member, span in zip(step.members, step.spans, strict=True):
            for position in range(span.begin, span.end):
                slot = _slot(span, position)
                assert slot not in written, f"{position} is computed, and the step computes it already"
                written.add(slot)
                self._slots[slot] = (position, _token(member, position))
        for member, span in zip(step.members, step.spans, strict=True):
            for position in range(span.end):
                held = self._slots.get(_slot(span, position))
                assert held in ((position, _token(member, position)), (position, None)), f"{held} at {position}"


def _token(sequence: Sequence | Prefill, position: int) -> int | None:
    return sequence.token_ids[position] if position < len(sequence.token_ids) else None


def _slot(span: SequenceSpan, position: int) -> int:
    for segment in reversed(span.segments):
        if position >= segment.start:
            offset = position - segment.start
            return int(segment.pages[offset // PAGE_SIZE]) * PAGE_SIZE + offset % PAGE_SIZE
    raise AssertionError("a path begins at 0")


class Simulation:
    """A batcher, its cache, and tokens that are drawn at random; with `lookahead` they are read a step late."""

    def __init__(
        self,
        *,
        num_pages: int = 64,
        num_slots: int = 8,
        max_step_tokens: int = 32,
        is_chunked: bool = True,
        is_sharing: bool = True,
        lookahead: int = 0,
        seed: int = 0,
    ) -> None:
        self.cache = CacheManager(num_pages=num_pages, page_size=PAGE_SIZE, is_sharing=is_sharing)
        self.step_time = StepTimeModel()
        self.prefills = PrefillQueue(_read)
        self.batcher = Batcher(
            self.cache,
            self.step_time,
            num_slots=num_slots,
            max_step_tokens=max_step_tokens,
            prefills=self.prefills,
            is_chunked=is_chunked,
        )
        self.sequences: dict[str, Sequence] = {}
        self.steps: list[Step] = []
        self.ended: list[str] = []
        self.prefilled: list[str] = []
        self.num_computed = 0
        self.num_prefilled = 0
        self._pages = PagesOfTokens()
        self._lookahead = lookahead
        self._unread: list[list[Sequence]] = []
        self._rng = random.Random(seed)

    def submit(self, sequence: Sequence) -> None:
        self.sequences[sequence.key] = sequence
        self.batcher.waiting.push(sequence, now=0.0)
        self.prefills.remove(sequence.key)

    def prefill(self, *prompts: tuple[str, SequenceOf[int]]) -> None:
        """Compute these beginnings ahead, by key: the complete set. A prefix is named after its key."""
        self.prefills.replace(
            PrefillRequest(key=key, prompt=tuple(prompt), prefix_hashes=(key,), prefix_ends=(len(prompt),))
            for key, prompt in prompts
            if key not in self.sequences
        )

    def cancel(self, key: str) -> None:
        if sequence := self.sequences.pop(key, None):
            self.batcher.drop(sequence)

    def step(self) -> Step:
        """Schedule, check, read the tokens of the step (or the one before), and prove that no page is lost."""
        step = self.batcher.schedule()
        self.steps.append(step)
        if step.num_rows:
            self._pages.run(step)
            self.batcher.launched(step, num_read_tokens=0)
            self.num_computed += step.num_rows
            self.num_prefilled += step.num_prefilled_rows
            self._unread.append([step.sequences[index] for index in step.sampled])
        while self._unread and (len(self._unread) > self._lookahead or not step.num_rows):
            self._read(self._unread.pop(0))
        self.prefilled += self.prefills.take_finished()
        self.cache.check_integrity([each.cache for each in self.batcher.running if each.cache is not None])
        return step

    def run(self, max_steps: int = 2000) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.sequences and not self.prefills.has_work:
                return
            self.step()
        raise AssertionError(f"{sorted(self.sequences)} do not come to an end")

    def _read(self, sampled: list[Sequence]) -> None:
        for sequence in sampled:
            sequence.num_pending -= 1
            if self.sequences.get(sequence.key) is not sequence:
                continue
            token = self._rng.randrange(3)
            sequence.token_ids.append(token)
            sequence.state.output_ids.append(token)
            if len(sequence.state.output_ids) >= sequence.request.sampling.max_tokens:
                self.batcher.drop(self.sequences.pop(sequence.key))
                self.ended.append(sequence.key)
