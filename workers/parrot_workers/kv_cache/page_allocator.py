"""Which pages of the pool are free. Pages that are handed out together lie side by side where that is possible."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

__all__ = ["OutOfPages", "PageAllocator"]


class OutOfPages(Exception):
    """Fewer pages are free than were asked for. The manager makes room before it asks, so nobody else sees this."""

    def __init__(self, num: int, num_free: int) -> None:
        super().__init__(f"{num} pages were asked for and {num_free} are free")


class PageAllocator:
    """Hands out the pages 1 .. num_pages - 1. Page 0 is a dummy: padding rows write there, nobody owns it.

    Free pages are kept as runs, since attention reads side-by-side pages without gathering them first. A sequence
    grows by one page at a time, so a new allocation starts a little behind its neighbour: both have room to grow.

    Args:
        num_pages: Pages of the pool, the dummy counted.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._num_free = 0
        self._room = min(32, num_pages // 128)  # pages left between neighbours: 512 tokens where the pool is large
        self._lengths: dict[int, int] = {}  # first page of each free run -> its length
        self._starts: dict[int, int] = {}  # page behind each free run -> its first page
        self._by_length: list[tuple[int, int]] = []  # (length, first page), sorted
        self._is_free = bytearray(num_pages)
        self.free(range(1, num_pages))

    @property
    def num_free(self) -> int:
        """Pages that can be allocated."""
        return self._num_free

    def allocate(self, num: int, *, after: int = 0) -> list[int]:
        """Hand out pages: those right behind page `after` if they are free, else one run, else as few runs as possible.

        Args:
            num: Pages wanted.
            after: Page that the new ones continue; 0 if none.

        Raises:
            OutOfPages: Fewer are free; then none is taken.
        """
        if num > self._num_free:
            raise OutOfPages(num, self._num_free)
        if after and self._lengths.get(after + 1, 0) >= num > 0:
            return self._take(after + 1, 0, num)
        pages: list[int] = []
        while len(pages) < num:
            pages += self._take_from_best_run(num - len(pages))
        return pages

    def free(self, pages: Iterable[int]) -> None:
        """Give pages back, in any order."""
        for start, end in _runs(sorted(pages)):
            assert 1 <= start < end <= self.num_pages, f"[{start}, {end}) are not pages that were given out"
            assert self._is_free.find(1, start, end) < 0, f"a page of [{start}, {end}) is freed twice"
            self._num_free += end - start
            self._is_free[start:end] = b"\1" * (end - start)
            left = self._starts.get(start, start)
            if left != start:
                self._remove_run(left)
            right = end + self._lengths.get(end, 0)
            if right != end:
                self._remove_run(end)
            self._add_run(left, right - left)

    def _take_from_best_run(self, num: int) -> list[int]:
        """Take from the smallest run that leaves room to grow on both sides, else from the longest."""
        index = bisect_left(self._by_length, (num + 2 * self._room, 0))
        length, start = self._by_length[min(index, len(self._by_length) - 1)]
        num = min(num, length)
        return self._take(start, min(self._room, (length - num) // 2), num)

    def _take(self, start: int, offset: int, num: int) -> list[int]:
        """Take `num` pages of the run that begins at `start`, from its page `offset` on."""
        length = self._remove_run(start)
        first, end = start + offset, start + offset + num
        self._add_run(start, offset)
        self._add_run(end, length - offset - num)
        self._is_free[first:end] = bytes(num)
        self._num_free -= num
        return list(range(first, end))

    def _add_run(self, start: int, length: int) -> None:
        if length:
            self._lengths[start] = length
            self._starts[start + length] = start
            insort(self._by_length, (length, start))

    def _remove_run(self, start: int) -> int:
        length = self._lengths.pop(start)
        del self._starts[start + length]
        del self._by_length[bisect_left(self._by_length, (length, start))]
        return length

    def free_pages(self) -> list[int]:
        """All free pages, ascending."""
        return [page for page, is_free in enumerate(self._is_free) if is_free]

    def check_integrity(self) -> None:
        """Prove that the runs are exactly the free pages, each run as long as it can be."""
        free = self.free_pages()
        assert 0 not in free, "page 0 belongs to nobody"
        assert len(free) == self._num_free, f"{self._num_free} pages are counted as free, and {len(free)} are"
        runs = {start: end - start for start, end in _runs(free)}
        assert self._lengths == runs, "the free runs are not the free pages"
        assert self._starts == {start + length: start for start, length in runs.items()}, "ends of runs are wrong"
        assert self._by_length == sorted((length, start) for start, length in runs.items()), "runs are out of order"


def _runs(pages: list[int]) -> Iterator[tuple[int, int]]:
    """Cut ascending pages into half-open ranges of neighbours."""
    begin = 0
    for index in range(1, len(pages) + 1):
        if index == len(pages) or pages[index] != pages[index - 1] + 1:
            yield pages[begin], pages[index - 1] + 1
            begin = index
