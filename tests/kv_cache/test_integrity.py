"""Each proof fails when its rule is broken on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from parrot_workers.kv_cache import CacheManager, SequenceCache
from parrot_workers.kv_cache.node import Node
from parrot_workers.kv_cache.prefix_tree import PrefixTree


@dataclass(slots=True)
class World:
    """A cache in use: a prefix, under it two leaves, one of them held by a running sequence, another held half-way."""

    manager: CacheManager
    tree: PrefixTree
    prefix: Node
    free: Node
    held: Node
    half: Node
    running: list[SequenceCache]


Corruption = Callable[[World], None]
CORRUPTIONS: list[tuple[Corruption, str]] = []


def _breaks(rule: str) -> Callable[[Corruption], Corruption]:
    """Add a way to break the cache, and what the proof says then."""

    def add(corrupt: Corruption) -> Corruption:
        CORRUPTIONS.append((corrupt, rule))
        return corrupt

    return add


def _make_world() -> World:
    manager = CacheManager(num_pages=30, page_size=2)
    free = manager.acquire([1, 2, 3, 4, 5, 6, 7])
    assert free is not None
    manager.note_prefix(free.cache, "p", 4)
    manager.mark_computed(free.cache, 7)
    manager.release(free.cache, [1, 2, 3, 4, 5, 6, 7])
    held = manager.acquire([1, 2, 3, 4, 8, 8, 8])
    half = manager.acquire([9, 9, 9, 9, 9, 9])
    assert held is not None
    assert half is not None
    manager.mark_computed(held.cache, 7)
    manager.mark_computed(half.cache, 2)
    prefix = held.cache.node.parent
    assert prefix is not None
    (leaf,) = (node for node in prefix.children if node is not held.cache.node)
    running = [held.cache, half.cache]
    manager.check_integrity(running)
    return World(manager, manager._tree, prefix, leaf, held.cache.node, half.cache.node, running)


@_breaks("pages are lost")
def _lose_a_page(world: World) -> None:
    world.manager._allocator.allocate(1)


@_breaks("a page is in two places")
def _free_a_page_in_use(world: World) -> None:
    world.manager._allocator.free([int(world.prefix.pages[0])])


@_breaks("a page is in two places")
def _share_a_page(world: World) -> None:
    world.free.pages[0] = world.prefix.pages[0]


@_breaks("a page is in two places")
def _share_an_own_page(world: World) -> None:
    world.running[0].pages[0] = world.running[1].pages[0]


@_breaks("pages are lost")
def _use_the_dummy_page(world: World) -> None:
    world.free.pages[0] = 0


@_breaks("are counted as free")
def _count_free_pages_wrong(world: World) -> None:
    world.manager._allocator._num_free += 1


@_breaks("the free runs are not the free pages")
def _cut_a_free_run(world: World) -> None:
    allocator = world.manager._allocator
    length, start = allocator._by_length[-1]
    allocator._remove_run(start)
    allocator._add_run(start, 1)
    allocator._add_run(start + 1, length - 1)


@_breaks("3 locks, and 2 sequences")
def _lock_once_more(world: World) -> None:
    world.tree.lock(world.held)


@_breaks("0 locks, and 1 sequences")
def _forget_a_lock(world: World) -> None:
    world.prefix.num_locks -= 1


@_breaks("2 locks, and 1 sequences")
def _forget_a_sequence(world: World) -> None:
    world.running.pop()


@_breaks("holds a node that has left the tree")
def _add_a_stranger(world: World) -> None:
    other = CacheManager(num_pages=10, page_size=2).acquire([1])
    assert other is not None
    world.running.append(other.cache)


@_breaks("a running sequence is released")
def _keep_a_released_sequence(world: World) -> None:
    world.running[0].is_released = True


@_breaks("tokens in 2 pages")
def _drop_a_token(world: World) -> None:
    world.free.assign(world.free.start, world.free.tokens[:2], world.free.pages, 2)


@_breaks("a node has no tokens")
def _drop_all_tokens(world: World) -> None:
    world.free.assign(world.free.start, (), world.free.pages[:0], 0)
    world.prefix.child_keys[0] = ()


@_breaks("ends inside a page although")
def _end_an_inner_node_inside_a_page(world: World) -> None:
    world.prefix.assign(0, world.prefix.tokens[:3], world.prefix.pages, 3)


@_breaks("does not begin where its parent ends")
def _move_a_node(world: World) -> None:
    world.free.assign(world.free.start + 2, world.free.tokens, world.free.pages, 3)


@_breaks("a child does not know its parent")
def _disown_a_child(world: World) -> None:
    world.free.parent = world.half


@_breaks("children are out of order")
def _put_children_out_of_order(world: World) -> None:
    world.prefix.children.reverse()
    world.prefix.child_keys.reverse()


@_breaks("keys of children are wrong")
def _change_a_key(world: World) -> None:
    world.prefix.child_keys[0] = (0, 0)


@_breaks("agree in their first page")
def _make_two_children_alike(world: World) -> None:
    world.free.assign(world.free.start, (8, 8, 7), world.free.pages, 3)
    world.prefix.child_keys[0] = (8, 8)


@_breaks("salts are mixed")
def _mix_salts(world: World) -> None:
    world.free.salt = "other"


@_breaks("3 of 2 tokens computed")
def _compute_too_much(world: World) -> None:
    world.held.num_computed = 3
    world.held._segment = None


@_breaks("nobody holds the node and it is not computed")
def _leave_something_uncomputed(world: World) -> None:
    world.free.num_computed = 2
    world.free._segment = None


@_breaks("a node is computed above which something is not")
def _compute_below_what_is_not(world: World) -> None:
    world.prefix.num_computed = 3
    world.prefix._segment = None


@_breaks("tokens are computed, and their path is not")
def _compute_own_tokens_too_early(world: World) -> None:
    world.running[1].num_computed += 1


@_breaks("room is counted wrong")
def _count_room_wrong(world: World) -> None:
    world.running[0].max_tokens += 2


@_breaks("tokens without pages")
def _ask_for_more_than_there_is(world: World) -> None:
    world.running[0].num_tokens += 2


@_breaks("do not begin where its path ends")
def _move_own_pages(world: World) -> None:
    world.running[0].start += 2


@_breaks("out of date")
def _show_a_stale_segment(world: World) -> None:
    assert world.free.segment
    world.free.pages = np.array([28, 29], dtype=np.int32)


@_breaks("pages of the tree are counted wrong")
def _count_tree_pages_wrong(world: World) -> None:
    world.tree.num_pages += 1


@_breaks("pages are counted as locked")
def _count_locked_pages_wrong(world: World) -> None:
    world.tree.num_locked_pages -= 1


@_breaks("a leaf would never be evicted")
def _forget_to_offer(world: World) -> None:
    world.tree.evictable._heap.clear()


@_breaks("a leaf would never be evicted")
def _use_without_offering(world: World) -> None:
    world.free.last_used += 1


@_breaks("an unused root is kept")
def _keep_an_unused_root(world: World) -> None:
    world.tree.root("nobody")


@_breaks("notes are lost")
def _lose_a_note(world: World) -> None:
    world.prefix.notes.clear()


@_breaks("a note hangs on another node than it says")
def _hang_a_note_elsewhere(world: World) -> None:
    world.prefix.notes[0].node = world.half


@_breaks("does not hold its end")
def _hang_a_note_too_deep(world: World) -> None:
    (note,) = world.prefix.notes
    note.node = world.held
    world.prefix.notes, world.held.notes = [], [note]


@_breaks("neither whole nor pinned")
def _keep_a_note_that_nobody_needs(world: World) -> None:
    world.prefix.notes[0].is_whole = False


@_breaks("does not hold its end")
def _hang_a_note_too_high(world: World) -> None:
    world.prefix.notes[0].end = 8


@_breaks("a note ends inside a page")
def _end_a_note_inside_a_page(world: World) -> None:
    world.prefix.notes[0].end = 3


@_breaks("notes are lost")
def _hang_a_note_twice(world: World) -> None:
    (note,) = world.prefix.notes
    world.prefix.notes.append(note)


@pytest.mark.parametrize(("corrupt", "rule"), CORRUPTIONS, ids=lambda value: getattr(value, "__name__", "_")[1:])
def test_what_is_broken_is_noticed(corrupt: Corruption, rule: str) -> None:
    world = _make_world()
    corrupt(world)
    with pytest.raises(AssertionError, match=re.escape(rule)):
        world.manager.check_integrity(world.running)
