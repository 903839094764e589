"""An engine without a model: what it would do, and how long that would take. Pure: no threads, no clock, no bus.

engine = SimulatedEngine(A100_7B, num_slots=64, capacity_tokens=100_000)
engine.submit([SimulatedRequest(key="a", segments=(SimulatedSegment("h1", 500),), num_output_tokens=20)])
now = 0.0
while engine.has_work:
    duration_s, events = engine.step(now)
    now += duration_s  # the events happen at this time
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from parrot_mq.errors import ContextLengthExceeded, DeadlineExceeded, TaskCancelled
from parrot_mq.messages import EngineReport
from parrot_mq.testing.latency_model import LatencyModel
from parrot_mq.testing.simulated_cache import CacheNode, SimulatedCache
from parrot_mq.testing.simulated_requests import (
    EngineEvent,
    Failed,
    Finished,
    Prefilled,
    SimulatedPrefill,
    SimulatedRequest,
    Started,
    Token,
)

__all__ = ["SimulatedEngine"]

_TARGET_SHARE = 0.9  # of the time that a token may take, as in the real engine
_MAX_NOTES = 10_000  # prefills whose requests have not come yet
_MIN_READING = 16  # tokens of prompts in any step, as in the real engine
_MAX_AHEAD = 64  # tokens that a step reads ahead: about what costs nothing beside outputs; who comes waits for its end


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request in the engine. Its own tokens are those of its output whose keys and values it holds."""

    request: SimulatedRequest
    order: int
    salt: str
    came_at: float
    num_outputs: int
    path: tuple[CacheNode, ...] = ()
    num_read_nodes: int = 0  # of the path, nodes that are complete
    num_own_tokens: int = 0
    num_own_pages: int = 0
    num_computed_prompt: int = 0  # tokens of the prompt that it computed itself
    num_shared_tokens: int = 0
    num_prefilled_tokens: int = 0
    has_slot: bool = False
    has_started: bool = False

    @property
    def has_read_prompt(self) -> bool:
        return self.num_read_nodes == len(self.path)

    @property
    def is_writing(self) -> bool:
        """Whether one row gives one more token."""
        return self.has_read_prompt and self.num_outputs - self.num_own_tokens == 1

    @property
    def rights(self) -> tuple[bool, int]:
        """Smaller goes first: who has a reader before who has none, then in the order of submission."""
        return self.request.tpot_target_s is None, self.order


@dataclass(slots=True, eq=False)
class _Ahead:
    """A prefill: waiting, in work, or done."""

    prefill: SimulatedPrefill
    path: tuple[CacheNode, ...] = ()
    num_computed: int = 0
    is_done: bool = False


@dataclass(slots=True)
class _Step:
    """What goes through the model at once."""

    num_left: int
    num_rows: int = 0
    num_prefill_tokens: int = 0
    members: set[str] = field(default_factory=set)
    sampled: list[_Sequence] = field(default_factory=list)

    def add(self, num_tokens: int, *, is_prefill: bool) -> None:
        self.num_left -= num_tokens
        self.num_rows += num_tokens
        self.num_prefill_tokens += num_tokens if is_prefill else 0


@dataclass(slots=True)
class _Totals:
    """What the engine has done, under the names of `EngineReport`."""

    num_batches: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_computed_tokens: int = 0
    num_prefilled_tokens: int = 0
    num_output_tokens: int = 0
    num_steps: int = 0
    num_batched: int = 0
    num_read_tokens: int = 0
    num_flat_tokens: int = 0
    step_s: float = 0.0
    last_step_s: float = 0.0
    last_batch_size: int = 0


class SimulatedEngine:
    """Continuous batching with chunked prefill, a prefix cache with pages, and preemption by computing again.

    Every submitted request ends exactly once, with `Finished` or `Failed`. A step first advances the outputs, then
    reads prompts (first come, first served; those with a target first), then reads ahead, under a budget of tokens. If
    pages run out, who came last loses its own, waits, and computes them again later.

    Args:
        model: How long steps take.
        num_slots: Requests that run at a time.
        capacity_tokens: Tokens whose keys and values are kept.
        max_step_tokens: Most tokens that go through the model at once.
        prefix_cache: Whether prompts share what they have in common, and leave it behind.
        cascade: Whether what running requests share is also read once per step, and not once for each.
        page_size: Tokens of a page.
    """

    def __init__(
        self,
        model: LatencyModel,
        *,
        num_slots: int = 64,
        capacity_tokens: int = 100_000,
        max_step_tokens: int = 2048,
        prefix_cache: bool = True,
        cascade: bool = True,
        page_size: int = 16,
    ) -> None:
        self.model = model
        self.num_slots = num_slots
        self._max_step_tokens = max_step_tokens
        self._shares = prefix_cache
        self._cascade = cascade
        self._cache = SimulatedCache(capacity_tokens // page_size, page_size)
        self._waiting: dict[str, _Sequence] = {}
        self._queue: list[tuple[tuple[bool, int], _Sequence]] = []  # of those, a heap; who has left is still in it
        self._deadlines: list[tuple[float, int, _Sequence]] = []  # the same for those that have one
        self._running: dict[str, _Sequence] = {}
        self._aheads: dict[str, _Ahead] = {}
        self._prefilled: dict[str, int] = {}
        self._events: list[EngineEvent] = []
        self._now = 0.0
        self._num_submitted = 0
        self._num_own_tokens = 0
        self._totals = _Totals()

    @property
    def capacity_tokens(self) -> int:
        """Most tokens of prompt and output together, whole pages."""
        return self._cache.num_pages * self._cache.page_size

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot, or for pages."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """True while `step` has something to do or an event to tell."""
        return bool(self._running or self._waiting or self._events or self._next_ahead())

    # -- commands ----------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[SimulatedRequest]) -> None:
        """Take requests. A key that has not ended yet is ignored; one that can never fit fails in the next step."""
        self._totals.num_batches += bool(requests)
        for request in requests:
            if request.key in self._running or request.key in self._waiting:
                continue
            self._num_submitted += 1
            if self._num_pages_at_end(request) > self._cache.num_pages:
                error = ContextLengthExceeded(
                    num_prompt_tokens=request.num_prompt_tokens,
                    max_tokens=request.num_output_tokens,
                    limit=self.capacity_tokens,
                )
                self._events.append(Failed(request.key, error))
                continue
            salt = request.salt if self._shares else f"{request.key}#{self._num_submitted}"
            num_outputs = min(request.num_continued_tokens, request.num_output_tokens - 1)
            sequence = _Sequence(request, self._num_submitted, salt, self._now, num_outputs)
            self._wait(sequence)
            if request.deadline < float("inf"):
                heapq.heappush(self._deadlines, (request.deadline, sequence.order, sequence))

    def cancel(self, keys: Iterable[str]) -> None:
        """Give up requests at once; the next step tells `Failed(TaskCancelled)`. Unknown keys are ignored."""
        for key in keys:
            if (sequence := self._running.get(key)) is not None:
                self._release(sequence)
            elif self._waiting.pop(key, None) is None:
                continue
            self._events.append(Failed(key, TaskCancelled(task=key)))

    def prefill(self, prefills: Sequence[SimulatedPrefill]) -> None:
        """Compute these beginnings of prompts when there is nothing better to do: the complete set.

        What is not named any more is given up. Without a prefix cache nothing is done.
        """
        wanted = {each.key: each for each in prefills} if self._shares else {}
        for key, ahead in list(self._aheads.items()):
            if wanted.get(key) != ahead.prefill and key not in self._waiting:
                self._give_up(ahead)
        for key, each in wanted.items():
            if key not in self._aheads and key not in self._running and key not in self._waiting:
                self._aheads[key] = _Ahead(each)

    def pin(self, hashes: Iterable[str]) -> None:
        """Evict these prefixes last: the complete set, which replaces the former one."""
        self._cache.pin(hashes)

    # -- a step ------------------------------------------------------------------------------------------------------

    def step(self, now: float) -> tuple[float, list[EngineEvent]]:
        """Advance every output by one token, and read prompts.

        Args:
            now: When the step begins, on the clock of the deadlines.

        Returns:
            How many seconds it takes, and what has happened at its end.
        """
        self._now = now
        self._expire(now)
        step = _Step(self._max_step_tokens)
        writing = sorted((each for each in self._running.values() if each.is_writing), key=_rights)
        for sequence in writing:
            if step.num_left and sequence.has_slot:  # not preempted for another of this step
                self._read_own(step, sequence, 1)
        self._limit_reading(step, writing)
        self._read_prompts(step)
        self._read_ahead(step)
        duration_s = self._run(step)
        self._now += duration_s
        events, self._events = self._events, []
        return duration_s, events

    def report(self) -> EngineReport:
        """Count what is going on, as a worker tells it."""
        cache, totals = self._cache, self._totals
        return EngineReport(
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            page_size=cache.page_size if self._shares else 0,
            num_pages=cache.num_pages,
            num_free_pages=cache.num_free_pages,
            num_cached_pages=cache.num_idle_pages,
            num_pinned_pages=cache.num_pinned_pages,
            num_evicted_pages=cache.num_evicted_pages,
            **asdict(totals),
        )

    def check_integrity(self) -> None:
        """Assert that every page and every token is counted once, and that no sequence has what it should not have."""
        self._cache.check_integrity()
        running = list(self._running.values())
        assert len(running) <= self.num_slots
        assert not self._running.keys() & self._waiting.keys()
        assert self._cache.num_own_pages == sum(each.num_own_pages for each in running)
        assert self._num_own_tokens == sum(each.num_own_tokens for each in running)
        for each in running:
            assert each.has_slot
            assert each.num_own_tokens <= each.num_outputs < each.request.num_output_tokens
            assert self._cache.pages_for(each.num_own_tokens) <= each.num_own_pages
            assert all(node.is_complete for node in each.path[: each.num_read_nodes])
        for each in self._waiting.values():
            assert not each.has_slot
            assert not each.path
            assert not each.num_own_pages

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, sequence = heapq.heappop(self._deadlines)
            key = sequence.request.key
            if self._waiting.get(key) is sequence and not sequence.has_started:
                del self._waiting[key]
                waited_s = max(0.0, deadline - sequence.came_at)
                self._events.append(Failed(key, DeadlineExceeded(what=f"output {key!r}", timeout_s=waited_s)))

    def _limit_reading(self, step: _Step, writing: Sequence[_Sequence]) -> None:
        """Leave only so much room for prompts as the most hurried output has time for."""
        targets = [each.request.tpot_target_s for each in writing]
        target_s = min((target for target in targets if target is not None), default=None)
        if target_s is None:
            return
        num_once, num_again = self._count_reads()
        num_tokens = self.model.max_prefill_tokens(
            duration_s=target_s * _TARGET_SHARE,
            num_read_tokens=num_once,
            num_reread_tokens=0 if self._cascade else num_again,
        )
        step.num_left = min(step.num_left, max(num_tokens, _MIN_READING))

    def _run(self, step: _Step) -> float:
        """Let the step happen; returns how long it takes. Nothing happens without rows."""
        if not step.num_rows:
            return 0.0
        num_once, num_again = self._count_reads()
        num_reread = 0 if self._cascade else num_again
        duration_s = self.model.step_s(
            num_read_tokens=num_once, num_reread_tokens=num_reread, num_prefill_tokens=step.num_prefill_tokens
        )
        totals = self._totals
        totals.num_steps += 1
        totals.num_batched += len(step.members)
        totals.last_batch_size = len(step.members)
        totals.num_computed_tokens += step.num_rows
        totals.num_read_tokens += num_once + num_reread
        totals.num_flat_tokens += num_once + num_again
        totals.step_s += duration_s
        totals.last_step_s = duration_s
        for sequence in step.sampled:
            self._sample(sequence)
        return duration_s

    def _count_reads(self) -> tuple[int, int]:
        """Tokens that attention reads for all that have a slot, each once; and how often it reads one of them again."""
        num_once = self._cache.num_held_tokens + self._num_own_tokens
        num_again = self._cache.num_flat_tokens - self._cache.num_held_tokens
        return num_once, num_again

    # -- prompts -----------------------------------------------------------------------------------------------------

    def _read_prompts(self, step: _Step) -> None:
        """Go on with prompts that are being read, then admit new ones."""
        reading = [each for key, each in self._running.items() if key not in step.members and not each.is_writing]
        for sequence in sorted(reading, key=_rights):
            if step.num_left and sequence.has_slot:
                self._read(step, sequence)
        while step.num_left and (admitted := self._admit()) is not None:
            self._read(step, admitted)

    def _read(self, step: _Step, sequence: _Sequence) -> None:
        """Go on with a prompt, and behind it with what was generated before; the end of it gives a token."""
        num_before = step.num_rows
        if not self._read_path(step, sequence):
            return
        if not sequence.has_started:
            self._start(sequence)
        num_missing = sequence.num_outputs - sequence.num_own_tokens
        if num_missing and (not step.num_left or not self._read_own(step, sequence, min(num_missing, step.num_left))):
            return
        if sequence.num_own_tokens < sequence.num_outputs:
            return
        if step.num_rows == num_before:  # all is there, but the last token has to go through the model
            if not step.num_left:
                return
            step.add(1, is_prefill=True)
        if not num_missing:
            step.members.add(sequence.request.key)
            step.sampled.append(sequence)

    def _read_path(self, step: _Step, sequence: _Sequence) -> bool:
        """Compute what is missing of the prompt, as far as the step has room; True at its end."""
        while not sequence.has_read_prompt:
            node = sequence.path[sequence.num_read_nodes]
            num_tokens = min(node.num_tokens - node.num_computed, step.num_left)
            if num_tokens:
                self._cache.compute(node, num_tokens)
                step.add(num_tokens, is_prefill=True)
                step.members.add(sequence.request.key)
                sequence.num_computed_prompt += num_tokens
            if not node.is_complete:
                return False
            sequence.num_read_nodes += 1
        return True

    def _read_own(self, step: _Step, sequence: _Sequence, num_tokens: int) -> bool:
        """Put tokens of the output into the step, perhaps at the cost of others; False if there are no pages."""
        num_pages = self._cache.pages_for(sequence.num_own_tokens + num_tokens) - sequence.num_own_pages
        while not self._cache.take_own_pages(num_pages):
            if self._drop_ahead():
                continue
            left = [each for key, each in self._running.items() if key not in step.members or each is sequence]
            victim = max(left, key=_rights)
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.num_own_pages += num_pages
        sequence.num_own_tokens += num_tokens
        self._num_own_tokens += num_tokens
        step.add(num_tokens, is_prefill=num_tokens > 1)
        step.members.add(sequence.request.key)
        if sequence.num_own_tokens == sequence.num_outputs:
            step.sampled.append(sequence)
        return True

    def _start(self, sequence: _Sequence) -> None:
        request = sequence.request
        sequence.has_started = True
        num_shared = max(0, request.num_prompt_tokens - sequence.num_computed_prompt)
        sequence.num_shared_tokens = num_shared
        sequence.num_prefilled_tokens = min(num_shared, self._prefilled.pop(request.key, 0))
        self._totals.num_prompt_tokens += request.num_prompt_tokens
        self._totals.num_shared_tokens += num_shared
        self._events.append(Started(request.key, request.num_prompt_tokens, num_shared, sequence.num_prefilled_tokens))

    def _sample(self, sequence: _Sequence) -> None:
        request = sequence.request
        self._events.append(Token(request.key, sequence.num_outputs))
        sequence.num_outputs += 1
        self._totals.num_output_tokens += 1
        if sequence.num_outputs < request.num_output_tokens:
            return
        self._events.append(
            Finished(
                request.key,
                request.num_prompt_tokens,
                sequence.num_shared_tokens,
                sequence.num_prefilled_tokens,
                request.num_output_tokens,
            )
        )
        self._release(sequence, keep_output=True)

    # -- slots and pages ---------------------------------------------------------------------------------------------

    def _num_pages_at_end(self, request: SimulatedRequest) -> int:
        parts = [*(segment.num_tokens for segment in request.segments), request.num_output_tokens]
        return sum(map(self._cache.pages_for, parts))

    def _wait(self, sequence: _Sequence) -> None:
        self._waiting[sequence.request.key] = sequence
        heapq.heappush(self._queue, (sequence.rights, sequence))

    def _admit(self) -> _Sequence | None:
        """Give a slot and pages to who is next, if there are."""
        while self._queue and self._waiting.get(self._queue[0][1].request.key) is not self._queue[0][1]:
            heapq.heappop(self._queue)
        if not self._queue or self.num_running >= self.num_slots:
            return None
        sequence = self._queue[0][1]
        request = sequence.request
        while not self._has_room(sequence):
            if not self._drop_ahead():
                return None
        heapq.heappop(self._queue)
        del self._waiting[request.key]
        sequence.path, sequence.has_slot = self._cache.acquire(sequence.salt, request.segments), True
        self._running[request.key] = sequence
        if (ahead := self._aheads.get(request.key)) is not None:
            self._note_prefilled(ahead)
            self._give_up(ahead)
        return sequence

    def _has_room(self, sequence: _Sequence) -> bool:
        """Whether there are pages for what it has now, and one for each that runs, lest the next steps preempt."""
        num_pages = self._cache.num_missing_pages(sequence.salt, sequence.request.segments)
        num_pages += self._cache.pages_for(sequence.num_outputs + 1)
        return num_pages + self.num_running <= self._cache.num_available_pages

    def _preempt(self, sequence: _Sequence) -> None:
        self._totals.num_preemptions += 1
        self._release(sequence, keep_output=False)
        self._wait(sequence)

    def _release(self, sequence: _Sequence, *, keep_output: bool = False) -> None:
        """Take slot and pages from a sequence; its prompt, and if it is wanted its output, stay in the cache."""
        request = sequence.request
        del self._running[request.key]
        if keep_output and self._shares and request.output_hash and sequence.path:
            self._cache.keep_own_pages(
                sequence.path,
                request.output_hash,
                num_tokens=sequence.num_outputs,
                num_pages=sequence.num_own_pages,
            )
        else:
            self._cache.return_own_pages(sequence.num_own_pages)
        self._cache.release(sequence.path, keep=self._shares)
        self._num_own_tokens -= sequence.num_own_tokens
        sequence.path, sequence.has_slot = (), False
        sequence.num_read_nodes = sequence.num_own_tokens = sequence.num_own_pages = 0

    # -- ahead -------------------------------------------------------------------------------------------------------

    def _read_ahead(self, step: _Step) -> None:
        """Put some of the beginnings of prompts that will come into what is left of the step."""
        step.num_left = min(step.num_left, _MAX_AHEAD)
        while step.num_left and (ahead := self._next_ahead()) is not None:
            if not ahead.path:
                ahead.path = self._cache.acquire(ahead.prefill.salt, ahead.prefill.segments)
            for node in ahead.path:
                num_tokens = min(node.num_tokens - node.num_computed, step.num_left)
                if num_tokens:
                    self._cache.compute(node, num_tokens)
                    step.add(num_tokens, is_prefill=True)
                    ahead.num_computed += num_tokens
                    self._totals.num_prefilled_tokens += num_tokens
            if not all(node.is_complete for node in ahead.path):
                return
            self._events.append(Prefilled(ahead.prefill.key))
            self._note_prefilled(ahead)
            self._cache.release(ahead.path)
            ahead.path, ahead.is_done = (), True

    def _next_ahead(self) -> _Ahead | None:
        """The first prefill that can go on; none while a request waits for pages."""
        if self._waiting and self.num_running < self.num_slots:
            return None
        for key, ahead in self._aheads.items():
            if ahead.is_done or key in self._waiting:
                continue
            num_pages = self._cache.num_missing_pages(ahead.prefill.salt, ahead.prefill.segments)
            if ahead.path or num_pages + self.num_running <= self._cache.num_available_pages:
                return ahead
        return None

    def _drop_ahead(self) -> bool:
        """Free the pages of a prefill that is in work; False if there is none. It begins again when there is room."""
        for ahead in reversed(self._aheads.values()):
            if ahead.path:
                self._cache.release(ahead.path)
                ahead.path, ahead.num_computed = (), 0
                return True
        return False

    def _give_up(self, ahead: _Ahead) -> None:
        del self._aheads[ahead.prefill.key]
        self._cache.release(ahead.path)

    def _note_prefilled(self, ahead: _Ahead) -> None:
        if ahead.num_computed and not ahead.is_done:
            self._prefilled[ahead.prefill.key] = ahead.num_computed
            if len(self._prefilled) > _MAX_NOTES:
                del self._prefilled[next(iter(self._prefilled))]


def _rights(sequence: _Sequence) -> tuple[bool, int]:
    return sequence.rights
