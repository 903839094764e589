"""Continuous batching: who runs in the next step, and how many tokens of each. Pure bookkeeping, no tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from parrot_workers.attention import SequenceSpan
from parrot_workers.engine.admission import AdmissionQueue
from parrot_workers.engine.prefills import Prefill, PrefillQueue
from parrot_workers.engine.sequence import Sequence
from parrot_workers.engine.step_time import StepTimeModel
from parrot_workers.kv_cache import OWN, CacheManager, PageCopy, Segment, SequenceCache

__all__ = ["Batcher", "Step"]

_TARGET_SHARE = 0.9  # of the time that a token may take: steps vary
_MIN_READING = 16  # tokens of prompts in any step, however tight its time: they hardly lengthen it, and reading goes on
_MAX_STRETCH = 2.0  # where outputs alone miss their target anyway, what waits may lengthen the step so much
_PREFILL_SHARE = 4  # a step computes no more ahead than this part of what it could: whoever comes waits for its end


@dataclass(slots=True)
class Step:
    """What goes through the model at once; `spans[i]` is that of `sequences[i]`, and those behind are of `prefills`.

    Attributes:
        sequences: Whose tokens.
        prefills: What is computed ahead.
        spans: Which tokens of each, and the pages that they read.
        sampled: Indices of the sequences whose next token can be sampled after the step.
        copies: Parts of pages to copy before the model runs.
        num_rows: Tokens of all spans.
    """

    sequences: list[Sequence] = field(default_factory=list)
    prefills: list[Prefill] = field(default_factory=list)
    spans: list[SequenceSpan] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    copies: list[PageCopy] = field(default_factory=list)
    num_rows: int = 0

    @property
    def members(self) -> list[Sequence | Prefill]:
        """Sequences and prefills, in the order of their spans."""
        return [*self.sequences, *self.prefills]

    @property
    def prefill_spans(self) -> list[SequenceSpan]:
        return self.spans[len(self.sequences) :]

    @property
    def num_prefilled_rows(self) -> int:
        """Of the rows, those that are computed ahead."""
        return sum(span.end - span.begin for span in self.prefill_spans)


class Batcher:
    """Fills each step: first the tokens somebody waits for, then other outputs, then prompts, under a token budget.

    - Prompts are read in chunks, beside outputs, so that no long prompt stops the others for long.
    - What two prompts have in common is read once, also when both come in the same step: whoever is scheduled first
      takes the tokens that are missing, and the next goes on behind them. Nobody owns a prefix, so nobody waits for one
      that was cancelled.
    - While somebody reads along, the step is kept so short that each token comes within its `tpot_target_s`.
    - What is left of a step computes the beginnings of prompts that have not come yet, in pages that are free or that
      nobody needs. They hold nothing between two steps, so they are in nobody's way.
    - When pages run out, who came last is preempted: its pages go, and later its tokens are computed again, as far as
      the prefix tree has lost them. Who came first always goes on, so the whole does.

    Args:
        cache: The pages.
        step_time: Predicts how long a step takes.
        num_slots: Sequences that run at a time.
        max_step_tokens: Most tokens of a step.
        prefills: What to compute ahead.
        is_chunked: False reads each prompt in one step.
    """

    def __init__(
        self,
        cache: CacheManager,
        step_time: StepTimeModel,
        *,
        num_slots: int,
        max_step_tokens: int,
        prefills: PrefillQueue,
        is_chunked: bool = True,
    ) -> None:
        self.waiting = AdmissionQueue()
        self.prefills = prefills
        self.num_preemptions = 0
        self._cache = cache
        self._step_time = step_time
        self._max_step_tokens = max_step_tokens
        self._is_chunked = is_chunked
        self._running: dict[str, Sequence] = {}
        self._free_slots = list(range(num_slots))[::-1]
        self._num_steps = 0
        self._num_read_tokens = 0
        self._copies: list[PageCopy] = []  # for the next step that has rows
        # Shared page -> position before which the step in the making computes it. By page, for a later prompt of the
        # step may split a segment.
        self._covered: dict[int, int] = {}

    @property
    def running(self) -> Iterable[Sequence]:
        return self._running.values()

    @property
    def num_running(self) -> int:
        return len(self._running)

    # -- a step ------------------------------------------------------------------------------------------------------

    def schedule(self) -> Step:
        """Choose the next step; without rows if nothing can go on before pending tokens are read."""
        self._num_steps += 1
        self._covered.clear()
        step = Step()
        writing, reading = self._ready()
        max_rows, is_late = self._max_rows(writing)
        for sequence in writing:
            has_room = step.num_rows < max_rows or sequence.is_latency or not step.num_rows
            if has_room and sequence.cache is not None:  # not preempted for another of this step
                self._extend(step, sequence, sequence.num_tokens)
        self._read(step, reading, min(max(max_rows, step.num_rows + _MIN_READING), self._max_step_tokens))
        if not is_late:
            self._read_ahead(step, max_rows)
        if step.num_rows:
            step.copies, self._copies = self._copies, []
        return step

    def launched(self, step: Step, *, num_read_tokens: int) -> None:
        """Note that the step runs: what later steps launch finds its keys and values.

        Args:
            num_read_tokens: Tokens of cache that its attention reads.
        """
        for sequence, span in zip(step.sequences, step.spans, strict=False):
            assert sequence.cache is not None
            self._cache.mark_computed(sequence.cache, span.end)
            sequence.num_computed = span.end
            sequence.last_step = self._num_steps
        for prefill, span in zip(step.prefills, step.prefill_spans, strict=True):
            self._note_prefill(prefill, span)
        for index in step.sampled:
            step.sequences[index].num_pending += 1
        self._num_read_tokens = num_read_tokens

    def drop(self, sequence: Sequence) -> None:
        """Let a sequence go, wherever it is; what it has computed stays in the tree, for whoever begins alike."""
        if self._running.pop(sequence.key, None) is not None:
            self._release(sequence)
        else:
            self.waiting.remove(sequence.key)

    # -- who may run -------------------------------------------------------------------------------------------------

    def _ready(self) -> tuple[list[Sequence], list[Sequence]]:
        """Running sequences that can go on, in the order of their rights: those that write, and those that read."""
        ready = [each for each in self._running.values() if not self._has_to_wait(each)]
        writing = sorted(
            (each for each in ready if each.is_writing),
            key=lambda each: (not each.is_latency, each.last_step, each.order),
        )
        reading = sorted((each for each in ready if not each.is_writing), key=_rights)
        return writing, reading

    def _has_to_wait(self, sequence: Sequence) -> bool:
        """True while the pending token has to be read first, or is the last one."""
        return sequence.has_all_tokens or (sequence.num_pending > 0 and sequence.needs_known_tokens)

    def _max_rows(self, writing: list[Sequence]) -> tuple[int, bool]:
        """Rows that fit into the time which the most hurried output has for its next token.

        Returns:
            How many; and true if the outputs that somebody reads take longer than that already, whatever is done.
        """
        targets = [each.request.tpot_target_s for each in writing if each.request.tpot_target_s is not None]
        if not targets:
            return self._max_step_tokens, False
        limit_s = min(targets) * _TARGET_SHARE
        alone_s = self._step_time.predict(num_rows=len(targets), num_read_tokens=self._num_read_tokens)
        is_late = alone_s > limit_s
        if is_late:
            limit_s = alone_s * _MAX_STRETCH
        rows = self._step_time.max_rows(duration_s=limit_s, num_read_tokens=self._num_read_tokens)
        return min(rows, self._max_step_tokens), is_late

    # -- prompts -----------------------------------------------------------------------------------------------------

    def _read(self, step: Step, reading: list[Sequence], max_rows: int) -> None:
        """Go on with prompts that are being read, then admit new ones."""
        for sequence in reading:
            if step.num_rows < max_rows and sequence.cache is not None:
                self._read_chunk(step, sequence, max_rows)
        while step.num_rows < max_rows and (admitted := self._admit()):
            self._read_chunk(step, admitted, max_rows)

    def _read_chunk(self, step: Step, sequence: Sequence, max_rows: int) -> None:
        assert sequence.cache is not None
        begin = max(self._first_missing(sequence.cache), sequence.num_computed)
        end = sequence.num_tokens
        if self._is_chunked:
            end = min(end, begin + max_rows - step.num_rows)
        sequence.num_computed = begin
        self._extend(step, sequence, end)

    def _admit(self) -> Sequence | None:
        """Give a slot and pages to who is next, if there are."""
        sequence = self.waiting.peek()
        if sequence is None or not self._free_slots or sequence.num_pending:
            return None
        acquired = self._cache.acquire(sequence.token_ids, salt=sequence.request.salt)
        if acquired is None:
            return None
        self.waiting.pop()
        sequence.cache, sequence.slot = acquired.cache, self._free_slots.pop()
        self._running[sequence.key] = sequence
        self._copies += acquired.copies
        for name, num_tokens in sequence.prefixes:
            self._cache.note_prefix(sequence.cache, name, num_tokens)
        return sequence

    def _first_missing(self, cache: SequenceCache) -> int:
        """Position of the first token that neither is computed nor will be by this step."""
        for segment in self._cache.segments(cache):
            if segment.key == OWN:
                return segment.start + segment.num_computed
            done = self._covered_end(segment)
            if done < segment.start + segment.num_tokens:
                return done
        raise AssertionError("the last segment of a sequence is its own")

    # -- ahead -------------------------------------------------------------------------------------------------------

    def _read_ahead(self, step: Step, max_rows: int) -> None:
        """Compute a prompt ahead in what is left of a step, unless somebody waits for pages."""
        if (self.waiting and self._free_slots) or step.num_rows >= max_rows:
            return
        if prefill := self.prefills.next():
            most = max(1, self._max_step_tokens // _PREFILL_SHARE)
            self._prefill(step, prefill, min(max_rows - step.num_rows, most))

    def _prefill(self, step: Step, prefill: Prefill, max_rows: int) -> None:
        """Go on with a prefill, unless it is done, or there is no room."""
        token_ids, salt = prefill.token_ids, prefill.request.salt
        end = len(token_ids)
        begin = self._cache.num_cached(token_ids, salt=salt)
        if begin < end and prefill.is_too_much:
            self.prefills.remove(prefill.request.key)
            return
        if self._is_chunked:
            end = min(end, begin + max_rows)
        acquired = self._cache.acquire(token_ids[:end], salt=salt, keeps_pinned=True)
        if acquired is None:
            self.prefills.block()
            return
        prefill.cache = acquired.cache
        self._copies += acquired.copies
        if begin == len(token_ids):
            self._finish(prefill)
            return
        begin = self._first_missing(acquired.cache)
        step.prefills.append(prefill)
        step.spans.append(SequenceSpan(segments=self._cache.segments(acquired.cache), begin=begin, end=end))
        step.num_rows += end - begin

    def _note_prefill(self, prefill: Prefill, span: SequenceSpan) -> None:
        """What a step has of a prefill will be there for later ones."""
        assert prefill.cache is not None
        self._cache.mark_computed(prefill.cache, span.end)
        self.prefills.note(prefill, span.begin, span.end)
        if span.end == len(prefill.token_ids):
            self._finish(prefill)
        else:
            self._let_go(prefill, span.end)

    def _finish(self, prefill: Prefill) -> None:
        assert prefill.cache is not None
        for name, num_tokens in prefill.prefixes:
            self._cache.note_prefix(prefill.cache, name, num_tokens)
        self._let_go(prefill, len(prefill.token_ids))
        self.prefills.finish(prefill)

    def abandon(self, prefill: Prefill) -> None:
        """The step that has some of it has failed: leave it out."""
        self._let_go(prefill, 0)
        self.prefills.remove(prefill.request.key)

    def _let_go(self, prefill: Prefill, num_computed: int) -> None:
        assert prefill.cache is not None
        self._cache.release(prefill.cache, prefill.token_ids[:num_computed])
        prefill.cache = None

    # -- pages -------------------------------------------------------------------------------------------------------

    def _extend(self, step: Step, sequence: Sequence, end: int) -> None:
        """Put the tokens up to `end` into the step, once there are pages for them; perhaps at the cost of others."""
        assert sequence.cache is not None
        while not self._cache.extend(sequence.cache, end):
            victim = self._victim(step)
            self._preempt(victim)
            if victim is sequence:
                return
        span = SequenceSpan(segments=self._cache.segments(sequence.cache), begin=sequence.num_computed, end=end)
        for segment in span.segments:
            self._cover(segment, end)
        if end == sequence.num_tokens:
            step.sampled.append(len(step.sequences))
        step.sequences.append(sequence)
        step.spans.append(span)
        step.num_rows += end - span.begin
        sequence.num_own_prompt_tokens += max(0, min(end, len(sequence.state.prompt_ids)) - span.begin)

    def _cover(self, segment: Segment, end: int) -> None:
        """Note what the step computes of a shared segment: its tokens before position `end`."""
        if segment.key == OWN or segment.num_computed == segment.num_tokens:
            return
        page_size = self._cache.page_size
        last = -(-(min(end, segment.start + segment.num_tokens) - segment.start) // page_size)
        for index in range(segment.num_computed // page_size, last):
            page_end = segment.start + (index + 1) * page_size
            self._covered[int(segment.pages[index])] = min(end, page_end)

    def _covered_end(self, segment: Segment) -> int:
        """Position before which a shared segment is computed, or will be by this step."""
        end = segment.start + segment.num_tokens
        if segment.num_computed == segment.num_tokens or self._covered.get(int(segment.pages[-1])) == end:
            return end
        done = segment.start + segment.num_computed
        for page in segment.pages[segment.num_computed // self._cache.page_size :]:
            if (page_end := self._covered.get(int(page))) is None:
                break
            done = page_end
        return done

    def _victim(self, step: Step) -> Sequence:
        """Who came last among those that nobody reads along; else who came last. Never one of the step."""
        taken = {sequence.key for sequence in step.sequences}
        return max((each for each in self._running.values() if each.key not in taken), key=_rights)

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        del self._running[sequence.key]
        self._release(sequence)
        self.waiting.push_preempted(sequence)

    def _release(self, sequence: Sequence) -> None:
        assert sequence.cache is not None
        self._cache.release(sequence.cache, sequence.token_ids[: sequence.num_computed])
        self.prefills.unblock()
        self._free_slots.append(sequence.slot)
        sequence.cache, sequence.slot, sequence.num_computed = None, -1, 0


def _rights(sequence: Sequence) -> tuple[bool, int]:
    """Smaller goes first: latency before throughput, then in the order of submission."""
    return not sequence.is_latency, sequence.order
