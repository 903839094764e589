"""The manager under random sequences, against a pool that knows what lies in every slot."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from parrot_workers.kv_cache import OWN, Acquired, CacheManager, PageCopy, SequenceCache
from parrot_workers.kv_cache.search import count_common

from tests.kv_cache.memory import Memory
from tests.kv_cache.trees import Tokens, page_contents, path

token_lists = st.lists(st.integers(0, 1), max_size=8).map(tuple)


@dataclass(slots=True)
class Sequence:
    """A running sequence as an engine knows it."""

    cache: SequenceCache
    salt: str
    prompt: Tokens
    tokens: Tokens


class ManagerModel(RuleBasedStateMachine):
    """An engine without a model: what it computes is written down instead."""

    @initialize(
        page_size=st.integers(1, 4), num_pages=st.integers(2, 30), is_sharing=st.sampled_from([True] * 5 + [False])
    )
    def begin(self, page_size: int, num_pages: int, is_sharing: bool) -> None:
        self.page_size = page_size
        self.is_sharing = is_sharing
        self.manager = CacheManager(num_pages=num_pages, page_size=page_size, is_sharing=is_sharing)
        self.memory = Memory(self.manager)
        self.copies: list[PageCopy] = []
        self.running: list[Sequence] = []
        self.history: list[Tokens] = [()]

    # What an engine does

    @rule(data=st.data(), salt=st.sampled_from(["", "", "a"]), own=token_lists)
    def acquire(self, data: st.DataObject, salt: str, own: Tokens) -> None:
        """A prompt that begins as some sequence before it did."""
        former = data.draw(st.sampled_from(self.history))
        tokens = former[: data.draw(st.integers(0, len(former)))] + own or (0,)
        most, is_exact = self._expect_cached(salt, tokens)
        can_take = self._can_take(salt, tokens)
        num_evicted = self.manager.statistics().num_evicted_pages
        num_cached = self.manager.num_cached(tokens[:-1], salt=salt)
        acquired = self.manager.acquire(tokens if len(tokens) % 2 else list(tokens), salt=salt)
        assert (acquired is not None) == can_take
        assert can_take or self.running or not self.manager.can_fit(len(tokens))
        self.history.append(tokens)
        if acquired is not None:
            self._begin(Sequence(acquired.cache, salt, tokens, tokens), acquired)
            if self.manager.statistics().num_evicted_pages == num_evicted:
                assert acquired.num_cached == most if is_exact else acquired.num_cached <= most
                assert acquired.num_cached == num_cached

    @rule(data=st.data(), own=token_lists)
    def acquire_ahead(self, data: st.DataObject, own: Tokens) -> None:
        """For something that may not come: what is pinned stays, and nothing is evicted in vain."""
        former = data.draw(st.sampled_from(self.history))
        tokens = former[: data.draw(st.integers(0, len(former)))] + own or (0,)
        pinned, held = self._pinned_pages(), page_contents(self.manager._tree)
        acquired = self.manager.acquire(tokens, keeps_pinned=True)
        assert pinned <= page_contents(self.manager._tree).keys()
        if acquired is None:
            assert page_contents(self.manager._tree).keys() == held.keys()
        else:
            self._begin(Sequence(acquired.cache, "", tokens, tokens), acquired)

    def _pinned_pages(self) -> set[int]:
        """Pages that a pinned prefix covers."""
        pages: set[int] = set()
        for note in self.manager._tree.notes:
            node = note.node if note.is_pinned else None
            while node is not None:
                num_pages = -(-(min(note.end, node.end) - node.start) // self.page_size)
                pages.update(node.pages[:num_pages].tolist())
                node = node.parent
        return pages

    def _begin(self, sequence: Sequence, acquired: Acquired) -> None:
        cache, copies, num_cached = acquired
        self.copies += copies
        self.running.append(sequence)
        assert num_cached == self.manager.num_computed(cache) < len(sequence.tokens)
        assert cache.max_tokens >= len(sequence.tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """A forward pass: some sequences compute a chunk; one may count on what another writes in the same pass."""
        self.memory.copy(self.copies)
        self.copies = []
        chosen = data.draw(st.lists(st.sampled_from(self.running), min_size=1, max_size=4, unique_by=id))
        ends = [self._compute(sequence, data.draw(st.integers(1, 6))) for sequence in chosen]
        for sequence, end in data.draw(st.permutations(list(zip(chosen, ends, strict=True)))):
            self.manager.mark_computed(sequence.cache, end)
            assert self.manager.num_computed(sequence.cache) >= end

    def _compute(self, sequence: Sequence, chunk: int) -> int:
        begin = self.memory.num_right(sequence.cache, sequence.salt, sequence.tokens)
        end = min(begin + chunk, len(sequence.tokens))
        self.memory.write(sequence.cache, sequence.salt, sequence.tokens, begin, end)
        return end

    @precondition(lambda self: self.running)
    @rule(data=st.data(), new=token_lists)
    def generate(self, data: st.DataObject, new: Tokens) -> None:
        """Room for further tokens."""
        sequence = data.draw(st.sampled_from(self.running))
        num_tokens = len(sequence.tokens) + len(new)
        needed = -(-num_tokens // self.page_size) - -(-len(sequence.tokens) // self.page_size)
        statistics = self.manager.statistics()
        can_take = needed <= statistics.num_free_pages + statistics.num_cached_pages
        assert self.manager.extend(sequence.cache, num_tokens) == can_take
        if can_take:
            sequence.tokens += new

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_kept=st.none() | st.integers(0, 9))
    def release(self, data: st.DataObject, num_kept: int | None) -> None:
        """Finished, failed, cancelled half-way, preempted: all the same."""
        sequence = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        computed = sequence.tokens[: self.manager.num_computed(sequence.cache)]
        self.manager.release(sequence.cache, list(computed[:num_kept]))
        self.history.append(sequence.tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def note(self, data: st.DataObject) -> None:
        """Prefixes of equal tokens have equal names, whatever the salt."""
        sequence = data.draw(st.sampled_from(self.running))
        prefix = sequence.prompt[: data.draw(st.integers(1, len(sequence.prompt)))]
        self.manager.note_prefix(sequence.cache, repr(prefix), len(prefix))

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        former = data.draw(st.sampled_from(self.history))
        self.manager.pin(repr(former[:end]) for end in range(data.draw(st.integers(0, 3)), len(former) + 1))

    # What must hold then

    def _num_shared(self, salt: str, tokens: Tokens) -> int:
        """Tokens, but the last, that lie in whole pages of the tree."""
        if not self.is_sharing:
            return 0
        pages = page_contents(self.manager._tree).values()
        limit = len(tokens) - 1
        return max(
            (len(held) for other, held in pages if self._is_shared(other, held, salt, tokens[:limit])), default=0
        )

    def _is_shared(self, other: str, held: Tokens, salt: str, tokens: Tokens) -> bool:
        return other == salt and len(held) % self.page_size == 0 and held == tokens[: len(held)]

    def _expect_cached(self, salt: str, tokens: Tokens) -> tuple[int, bool]:
        """How many tokens of a prompt should be cached, and whether so many exactly.

        The most tokens that any computed token of the tree has in common with the prompt, but behind the whole pages
        that are there not more than lie in one page.
        """
        if not self.is_sharing:
            return 0, True
        nodes = [node for node in self.manager._tree.nodes() if node.salt == salt]
        computed = [path(node)[: node.start + node.num_computed] for node in nodes]
        most = max((count_common(each, tokens[:-1], 0) for each in computed), default=0)
        return most, all(node.is_computed for node in nodes)

    def _can_take(self, salt: str, tokens: Tokens) -> bool:
        """Whether pages are there: free ones, and unused ones of the tree that are not needed themselves."""
        num_shared = self._num_shared(salt, tokens) // self.page_size
        contents = page_contents(self.manager._tree)
        unused = [page for node in self.manager._tree.nodes() if not node.num_locks for page in node.pages.tolist()]
        used = [page for page in unused if self._is_shared(*contents[page], salt, tokens[:-1])]
        num_free = self.manager.statistics().num_free_pages + len(unused) - len(used if self.is_sharing else [])
        return -(-len(tokens) // self.page_size) - num_shared <= num_free

    @invariant()
    def nothing_is_lost(self) -> None:
        self.manager.check_integrity([sequence.cache for sequence in self.running])
        statistics = self.manager.statistics()
        own = sum(len(sequence.cache.pages) for sequence in self.running)
        parts = (statistics.num_free_pages, statistics.num_cached_pages, statistics.num_locked_pages, own)
        assert sum(parts) == statistics.num_pages
        assert 0 <= statistics.num_pinned_pages <= statistics.num_cached_pages
        assert statistics.num_copied_tokens <= statistics.num_hit_tokens <= statistics.num_lookup_tokens

    @invariant()
    def what_is_computed_lies_where_it_is_read(self) -> None:
        memory = self._memory_after_copies()
        memory.check_tree()
        for sequence in self.running:
            num_computed = self.manager.num_computed(sequence.cache)
            assert memory.num_right(sequence.cache, sequence.salt, sequence.tokens) >= num_computed

    def _memory_after_copies(self) -> Memory:
        memory = Memory(self.manager)
        memory._slots = dict(self.memory._slots)
        memory.copy(self.copies)
        return memory

    @invariant()
    def segments_are_the_path(self) -> None:
        for sequence in self.running:
            segments = self.manager.segments(sequence.cache)
            position = 0
            for segment in segments:
                assert segment.start == position
                assert len(segment.pages) == -(-segment.num_tokens // self.page_size)
                assert 0 <= segment.num_computed <= segment.num_tokens
                position += segment.num_tokens
            assert position == len(sequence.tokens)
            assert [segment.key == OWN for segment in segments] == [False] * (len(segments) - 1) + [True]

    @invariant()
    def what_is_resident_is_there(self) -> None:
        nodes = list(self.manager._tree.nodes())
        computed = [path(node)[: node.start + node.num_computed] for node in nodes]
        for name in self.manager.resident():
            prefix = eval(name)
            whole = prefix[: len(prefix) // self.page_size * self.page_size]
            assert any(count_common(each, whole, 0) >= len(whole) - self.page_size for each in computed)

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        for sequence in self.running:
            self.manager.release(sequence.cache, [])
        self.manager.check_integrity()
        statistics = self.manager.statistics()
        assert statistics.num_free_pages + statistics.num_cached_pages == statistics.num_pages
        assert self.is_sharing or not statistics.num_cached_pages


TestManagerModel = ManagerModel.TestCase
TestManagerModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
