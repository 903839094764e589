"""The page allocator, also against a set of free pages."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from parrot_workers.kv_cache.page_allocator import OutOfPages, PageAllocator


def _allocator(num_pages: int, *free: int) -> PageAllocator:
    """An allocator in which only these pages are free."""
    allocator = PageAllocator(num_pages)
    taken = allocator.allocate(allocator.num_free)
    allocator.free(page for page in taken if page in free)
    return allocator


def test_the_dummy_page_is_never_handed_out() -> None:
    allocator = PageAllocator(5)
    assert sorted(allocator.allocate(4)) == [1, 2, 3, 4]
    assert allocator.num_free == 0


def test_nothing_is_taken_when_pages_lack() -> None:
    allocator = _allocator(10, 2, 3, 7)
    with pytest.raises(OutOfPages, match="4 pages were asked for and 3 are free"):
        allocator.allocate(4)
    assert allocator.free_pages() == [2, 3, 7]


def test_no_pages_can_be_had_at_any_time() -> None:
    assert PageAllocator(1).allocate(0, after=3) == []


def test_pages_right_behind_the_hint_come_first() -> None:
    allocator = _allocator(20, *range(2, 5), *range(8, 19))
    assert allocator.allocate(2, after=7) == [8, 9]
    assert allocator.allocate(3, after=1) == [2, 3, 4]


def test_without_room_behind_the_hint_pages_still_lie_side_by_side() -> None:
    allocator = _allocator(20, 3, 4, 10, 11, 12)
    assert allocator.allocate(3, after=2) == [10, 11, 12]


def test_the_smallest_run_that_fits_is_taken() -> None:
    allocator = _allocator(30, *range(1, 11), 12, 13, 14, *range(20, 26))
    assert allocator.allocate(3) == [12, 13, 14]


def test_pages_come_in_few_pieces_when_no_run_is_long_enough() -> None:
    allocator = _allocator(20, 2, 5, 6, 7, 11, 12)
    assert allocator.allocate(5) == [5, 6, 7, 11, 12]


def test_neighbours_have_room_to_grow() -> None:
    """Two sequences that begin one after the other both grow by side-by-side pages."""
    allocator = PageAllocator(1024)
    pages = [allocator.allocate(3), allocator.allocate(3)]
    for _ in range(8):
        for each in pages:
            each += allocator.allocate(1, after=each[-1])
    assert all(each == list(range(each[0], each[0] + 11)) for each in pages)


@pytest.mark.parametrize("pages", [[3], [4, 3], [0], [10], [5, 5]])
def test_pages_that_were_not_given_out_cannot_be_freed(pages: list[int]) -> None:
    allocator = _allocator(10, 3)
    with pytest.raises(AssertionError):
        allocator.free(pages)


class AllocatorModel(RuleBasedStateMachine):
    """Holds what was handed out."""

    @initialize(num_pages=st.integers(1, 40), room=st.integers(0, 4))
    def begin(self, num_pages: int, room: int) -> None:
        self.allocator = PageAllocator(num_pages)
        self.allocator._room = room
        self.free = set(range(1, num_pages))
        self.held: list[list[int]] = []

    def _runs(self) -> list[int]:
        """Lengths of the runs of free pages."""
        starts = [page for page in self.free if page - 1 not in self.free]
        return [next(length for length in range(1, 50) if start + length not in self.free) for start in starts]

    @rule(num=st.integers(0, 12), hint=st.integers(0, 45))
    def allocate(self, num: int, hint: int) -> None:
        after = 0 if hint in self.free else hint  # a hint is a page that somebody holds
        if num > len(self.free):
            with pytest.raises(OutOfPages):
                self.allocator.allocate(num, after=after)
            return
        fits_behind = after and set(range(after + 1, after + 1 + num)) <= self.free
        fits = num <= max(self._runs(), default=0)
        pages = self.allocator.allocate(num, after=after)
        assert len(pages) == num
        assert set(pages) <= self.free
        if fits:
            assert pages == list(range(pages[0], pages[0] + num)) if pages else True
        if fits_behind and pages:
            assert pages[0] == after + 1
        self.free -= set(pages)
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """Some pages of one allocation, in any order."""
        pages = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        pages = data.draw(st.permutations(pages))
        num = data.draw(st.integers(0, len(pages)))
        self.allocator.free(pages[:num])
        self.free |= set(pages[:num])
        self.held.append(pages[num:])

    @invariant()
    def the_allocator_agrees(self) -> None:
        self.allocator.check_integrity()
        assert self.allocator.free_pages() == sorted(self.free)
        assert self.allocator.num_free == len(self.free)


TestAllocatorModel = AllocatorModel.TestCase
TestAllocatorModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
