"""The rules of the manager, one by one, with pages of 4 tokens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
from parrot_workers import kv_cache
from parrot_workers.kv_cache import OWN, Acquired, CacheManager, PageCopy, SequenceCache


def _manager(num_pages: int = 100, *, is_sharing: bool = True) -> CacheManager:
    return CacheManager(num_pages=num_pages, page_size=4, is_sharing=is_sharing)


def _acquire(manager: CacheManager, num_tokens: int, *, first: int = 0, salt: str = "") -> Acquired:
    acquired = manager.acquire(range(first, first + num_tokens), salt=salt)
    assert acquired is not None
    return acquired


def _leave(manager: CacheManager, cache: SequenceCache, tokens: Sequence[int]) -> None:
    """A sequence ends; these tokens of it have been computed."""
    manager.mark_computed(cache, len(tokens))
    manager.release(cache, tokens)


def _run(manager: CacheManager, num_tokens: int, *, first: int = 0, salt: str = "") -> None:
    """A sequence comes, is computed and goes."""
    cache = _acquire(manager, num_tokens, first=first, salt=salt).cache
    _leave(manager, cache, range(first, first + num_tokens))


def test_sequences_of_one_step_share_what_is_not_computed_yet() -> None:
    manager = _manager()
    a, b = _acquire(manager, 10), _acquire(manager, 10)
    assert [segment.key for segment in manager.segments(a.cache)][:-1] == [
        segment.key for segment in manager.segments(b.cache)
    ][:-1]
    assert b.num_cached == 0
    assert manager.num_computed(b.cache) == 0
    manager.mark_computed(a.cache, 6)
    assert manager.num_computed(b.cache) == 6


def test_what_is_cached_can_be_asked_without_a_change() -> None:
    manager = _manager()
    assert manager.num_cached(range(10)) == 0
    _run(manager, 10)
    cache = _acquire(manager, 20, first=0).cache
    manager.mark_computed(cache, 13)
    before = manager.statistics()
    assert [manager.num_cached(range(num)) for num in (0, 3, 4, 13, 14, 30)] == [0, 3, 4, 13, 13, 13]
    assert manager.num_cached([0, 1, 2, 9, 9]) == 3
    assert manager.num_cached(range(10), salt="another") == 0
    assert manager.statistics() == before
    manager.check_integrity([cache])


def test_what_may_not_come_gets_no_page_of_what_is_pinned() -> None:
    manager = _manager(num_pages=7)
    cache = _acquire(manager, 9).cache
    manager.note_prefix(cache, "kept", 9)
    _leave(manager, cache, range(9))
    _run(manager, 9, first=50)
    manager.pin(["kept"])
    assert manager.acquire(range(100, 117), keeps_pinned=True) is None
    assert manager.num_cached(range(50, 59)) == 9, "nothing is evicted in vain"
    acquired = manager.acquire(range(100, 112), keeps_pinned=True)
    assert acquired is not None
    assert (manager.num_cached(range(9)), manager.num_cached(range(50, 59))) == (8, 4), "its whole pages are pinned"
    assert manager.acquire(range(200, 209)) is not None, "what has come gets what it needs"


def test_when_a_sequence_leaves_half_way_another_goes_on() -> None:
    manager = _manager()
    a, b = _acquire(manager, 20), _acquire(manager, 20)
    manager.mark_computed(a.cache, 6)
    manager.release(a.cache, range(6))
    assert manager.num_computed(b.cache) == 6
    manager.mark_computed(b.cache, 20)
    manager.release(b.cache, range(20))
    assert _acquire(manager, 21).num_cached == 20


def test_when_the_last_one_leaves_half_way_what_is_computed_stays() -> None:
    manager = _manager()
    cache = _acquire(manager, 20).cache
    _leave(manager, cache, range(6))
    assert manager.statistics().num_cached_pages == 2
    assert _acquire(manager, 20).num_cached == 6


@pytest.mark.parametrize("num_tokens", [1, 3, 4, 5, 7, 8, 9])
def test_the_last_token_of_a_prompt_is_always_computed(num_tokens: int) -> None:
    manager = _manager()
    _run(manager, num_tokens)
    assert _acquire(manager, num_tokens).num_cached == num_tokens - 1


def test_tokens_inside_a_page_are_copied() -> None:
    """The page where two sequences diverge is not shared: each writes its own tokens there."""
    manager = _manager()
    former = _acquire(manager, 11).cache
    pages = [page for segment in manager.segments(former) for page in segment.pages.tolist()]
    _leave(manager, former, range(11))
    acquired = manager.acquire([*range(10), 99, 98, 97])
    assert acquired is not None
    shared, new, _ = manager.segments(acquired.cache)
    assert shared.pages.tolist() == pages[:2]
    assert acquired.copies == [PageCopy(source=pages[2], target=int(new.pages[0]), num_tokens=2)]
    assert (acquired.num_cached, new.num_computed) == (10, 2)


def test_the_rest_of_a_prompt_is_copied_to_the_sequences_own_page() -> None:
    manager = _manager()
    _run(manager, 12)
    acquired = _acquire(manager, 8)
    (copy,) = acquired.copies
    assert copy.target == manager.segments(acquired.cache)[-1].pages[0]
    assert (copy.num_tokens, acquired.num_cached) == (3, 7)


def test_generated_tokens_enter_the_tree() -> None:
    """A chat turn meets the context of the one before, what was generated counted, and copies nothing."""
    manager = _manager()
    cache = _acquire(manager, 6).cache
    assert manager.extend(cache, 14)
    manager.mark_computed(cache, 13)
    manager.release(cache, range(13))
    acquired = _acquire(manager, 30)
    assert (acquired.num_cached, acquired.copies) == (13, [])


def test_what_two_sequences_have_both_generated_is_kept_once() -> None:
    manager = _manager()
    caches = [_acquire(manager, 6).cache for _ in range(2)]
    for cache in caches:
        manager.extend(cache, 14)
        _leave(manager, cache, range(14))
    assert manager.statistics().num_cached_pages == 4
    manager.check_integrity()


def test_salts_share_nothing() -> None:
    manager = _manager()
    _run(manager, 20, salt="a")
    assert _acquire(manager, 20, salt="b").num_cached == 0
    assert _acquire(manager, 20, salt="a").num_cached == 19


def test_without_sharing_nothing_is_found_and_nothing_stays() -> None:
    manager = _manager(is_sharing=False)
    caches = [_acquire(manager, 20).cache for _ in range(2)]
    manager.note_prefix(caches[0], "p", 16)
    assert [len(manager.segments(cache)) for cache in caches] == [1, 1]
    manager.check_integrity(caches)
    for cache in caches:
        _leave(manager, cache, range(20))
    statistics = manager.statistics()
    assert (statistics.num_free_pages, statistics.num_hit_tokens) == (99, 0)
    assert manager.resident() == []
    manager.check_integrity()


def test_all_pages_of_a_prompt_are_taken_or_none() -> None:
    manager = _manager(6)
    cache = _acquire(manager, 12).cache
    before = manager.statistics()
    assert manager.acquire(range(50, 62)) is None
    assert manager.statistics() == before
    manager.check_integrity([cache])
    _leave(manager, cache, range(12))
    _acquire(manager, 12, first=50)


def test_what_a_sequence_shares_is_not_evicted_for_it() -> None:
    """Five pages: two are shared, and the other cached one has to go."""
    manager = _manager(6)
    _run(manager, 8)
    _run(manager, 4, first=50)
    cache = _acquire(manager, 20)
    assert cache.num_cached == 8
    assert manager.acquire([1]) is None
    manager.check_integrity([cache.cache])


@pytest.mark.parametrize("num_tokens", [4, 5, 19, 20])
def test_what_can_fit_does_fit_alone(num_tokens: int) -> None:
    """Whatever lies in the cache."""
    manager = _manager(6)
    for first in (0, 0, 30, 2):
        _run(manager, 17, first=first)
    assert manager.can_fit(num_tokens)
    _acquire(manager, num_tokens)


def test_what_cannot_fit_is_known_beforehand() -> None:
    assert not _manager(6).can_fit(21)


def test_extending_takes_a_page_when_the_last_one_is_full() -> None:
    manager = _manager()
    cache = _acquire(manager, 5).cache
    num_free = manager.statistics().num_free_pages
    assert manager.extend(cache, 8)
    assert manager.statistics().num_free_pages == num_free
    assert manager.extend(cache, 9)
    assert manager.statistics().num_free_pages == num_free - 1
    assert manager.segments(cache)[-1].num_tokens == 5


def test_extending_never_takes_less_than_it_should() -> None:
    manager = _manager(4)
    cache = _acquire(manager, 5).cache
    assert not manager.extend(cache, 13)
    assert manager.statistics().num_free_pages == 1
    assert manager.extend(cache, 12)
    manager.check_integrity([cache])


def test_a_growing_sequence_lies_side_by_side() -> None:
    """Attention reads such pages without gathering them."""
    manager = CacheManager(num_pages=2000, page_size=4)
    caches = [_acquire(manager, 30, first=100 * number).cache for number in range(8)]
    for num_tokens in range(31, 81):
        assert all(manager.extend(cache, num_tokens) for cache in caches)
    for cache in caches:
        pages = [page for segment in manager.segments(cache) for page in segment.pages.tolist()]
        assert pages == list(range(pages[0], pages[0] + 20))


def test_what_was_not_marked_as_computed_is_not_kept() -> None:
    """Tokens that a step was about to compute when their sequence was preempted."""
    manager = _manager()
    cache = _acquire(manager, 20).cache
    manager.mark_computed(cache, 6)
    manager.release(cache, range(20))
    assert _acquire(manager, 20).num_cached == 6


def test_a_released_sequence_cannot_be_released_again() -> None:
    manager = _manager()
    cache = _acquire(manager, 5).cache
    manager.release(cache, range(5))
    with pytest.raises(AssertionError, match="released twice"):
        manager.release(cache, range(5))


def test_more_tokens_than_there_is_room_for_cannot_be_computed() -> None:
    manager = _manager()
    cache = _acquire(manager, 5).cache
    with pytest.raises(AssertionError, match="9 tokens cannot be computed in room for 8"):
        manager.mark_computed(cache, 9)


def test_a_named_prefix_is_resident_once_its_whole_pages_are_computed() -> None:
    manager = _manager()
    cache = _acquire(manager, 20).cache
    manager.note_prefix(cache, "short", 3)
    manager.note_prefix(cache, "long", 11)
    assert manager.resident() == []
    manager.mark_computed(cache, 7)
    assert manager.resident() == []
    manager.mark_computed(cache, 8)
    assert manager.resident() == ["long"]
    manager.release(cache, range(8))
    assert manager.resident() == ["long"]


def test_a_prefix_that_is_given_up_half_way_is_not_resident() -> None:
    manager = _manager()
    cache = _acquire(manager, 20).cache
    manager.note_prefix(cache, "p", 16)
    manager.pin(["p"])
    _leave(manager, cache, range(9))
    assert manager.resident() == []
    assert manager.statistics().num_pinned_pages == 3
    manager.check_integrity()


def test_pinned_prefixes_are_evicted_last() -> None:
    manager = _manager(11)
    cache = _acquire(manager, 12).cache
    manager.note_prefix(cache, "p", 8)
    _leave(manager, cache, range(12))
    manager.pin(["p"])
    for first in (100, 200, 300, 400):
        _run(manager, 12, first=first)
    assert manager.resident() == ["p"]
    assert _acquire(manager, 12).num_cached == 8
    manager.pin([])
    assert manager.statistics().num_pinned_pages == 0


def test_statistics_tell_what_sharing_saves() -> None:
    manager = _manager()
    _run(manager, 11)
    acquired = _acquire(manager, 10)
    assert acquired.num_cached == 9
    statistics = manager.statistics()
    assert (statistics.num_lookup_tokens, statistics.num_hit_tokens, statistics.num_copied_tokens) == (21, 9, 1)
    assert (statistics.num_locked_pages, statistics.num_cached_pages, statistics.num_pages) == (2, 1, 99)


def test_own_segments_have_no_identity() -> None:
    manager = _manager()
    own = manager.segments(_acquire(manager, 3).cache)
    assert [(segment.key, segment.start, segment.num_tokens) for segment in own] == [(OWN, 0, 3)]


def test_the_package_exports_what_it_says_and_loads_without_torch() -> None:
    assert all(hasattr(kv_cache, name) for name in kv_cache.__all__)
    script = "import sys, parrot_workers.kv_cache; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})
