"""What is evicted first."""

from __future__ import annotations

from parrot_workers.kv_cache.integrity import check_tree
from parrot_workers.kv_cache.node import Node
from parrot_workers.kv_cache.prefix_tree import PrefixTree

from tests.kv_cache.trees import make_tree, store


def _leaves(tree: PrefixTree) -> list[tuple[int, ...]]:
    return [node.tokens for node in tree.nodes() if node.is_free_leaf]


def _pin(tree: PrefixTree, node: Node, end: int, name: str = "p") -> None:
    """Name the first `end` tokens of the path to `node`, and pin the name."""
    tree.note_prefix(name, end, node)
    tree.pin([name])


def test_the_least_recently_used_leaf_goes_first() -> None:
    tree = make_tree(2, [(1, 1), (2, 2), (3, 3)])
    store(tree, (1, 1))
    for expected in [{(1, 1), (3, 3)}, {(1, 1)}, set()]:
        tree.evict(1)
        assert set(_leaves(tree)) == expected


def test_what_a_sequence_left_last_goes_last() -> None:
    tree = make_tree(2, [(1, 1), (2, 2)])
    node = tree.root("").children[0]
    tree.lock(node)
    tree.unlock(node)
    tree.evict(1)
    assert _leaves(tree) == [(1, 1)]


def test_a_leaf_gives_pages_from_its_end() -> None:
    tree = make_tree(2, [(1, 2, 3, 4, 5)])
    (leaf,) = tree.root("").children
    pages = leaf.pages.tolist()
    assert tree.evict(1) == pages[2:]
    assert leaf.tokens == (1, 2, 3, 4)
    assert tree.num_evicted_pages == 1


def test_an_inner_node_goes_after_what_hangs_on_it() -> None:
    tree = make_tree(2, [(1, 1, 2, 2), (1, 1, 3, 3)])
    tree.evict(2)
    assert _leaves(tree) == [(1, 1)]
    tree.evict(1)
    assert _leaves(tree) == []


def test_what_is_held_stays() -> None:
    tree = make_tree(2, [(1, 1, 2, 2), (1, 1, 3, 3)])
    node = tree.root("").children[0].children[0]
    tree.lock(node)
    assert len(tree.evict(9)) == 1
    assert [node.tokens for node in tree.nodes()] == [(), (1, 1), (2, 2)]


def test_spare_pages_are_evicted_with_those_that_are_needed() -> None:
    tree = make_tree(2, [(1,) * 20])
    assert len(tree.evict(2, spare=3)) == 5


def test_a_pinned_leaf_goes_when_no_other_is_left_and_never_to_spare() -> None:
    tree = make_tree(2, [(1, 1), (2, 2), (3, 3)])
    _pin(tree, tree.root("").children[0], 2)
    assert len(tree.evict(1, spare=9)) == 2
    assert _leaves(tree) == [(1, 1)]
    assert len(tree.evict(1, spare=9)) == 1


def test_what_a_leaf_holds_behind_a_pinned_prefix_is_not_pinned() -> None:
    """The prompt is needed again, what was generated from it is not."""
    tree = make_tree(2, [(1, 2, 3, 4, 5, 6, 7), (9, 9)])
    _pin(tree, tree.root("").children[0], 4)
    tree.evict(2)
    assert set(_leaves(tree)) == {(1, 2, 3, 4), (9, 9)}
    check_tree(tree, [])
    tree.evict(1)
    assert _leaves(tree) == [(1, 2, 3, 4)]


def test_a_pin_survives_splits() -> None:
    tree = make_tree(2, [(1, 1, 2, 2, 3, 3)])
    _pin(tree, tree.root("").children[0], 4)
    store(tree, (1, 1, 2, 2, 9, 9))
    store(tree, (1, 1, 8, 8))
    tree.evict(3)
    assert _leaves(tree) == [(2, 2)]
    assert tree.notes.resident() == ["p"]
    check_tree(tree, [])


def test_a_pin_survives_the_eviction_of_its_deepest_node() -> None:
    """What is left of the prefix still goes after what nobody needs."""
    tree = make_tree(2, [(1, 1, 2, 2), (1, 1, 3, 3)])
    node = tree.root("").children[0].children[0]
    _pin(tree, node, 4)
    assert len(tree.evict(2)) == 2  # 3 3, and since nothing else is left 2 2
    store(tree, (5, 5))
    tree.evict(1)
    assert _leaves(tree) == [(1, 1)]
    assert tree.notes.resident() == []
    check_tree(tree, [])


def test_a_prefix_that_was_cut_is_not_whole_again_when_others_take_its_place() -> None:
    """Its leaf grows, but with other tokens; only a sequence that brings them can tell that they are back."""
    tree = make_tree(2, [(1, 1, 2, 2)])
    (leaf,) = tree.root("").children
    _pin(tree, leaf, 4)
    tree.evict(1)
    store(tree, (1, 1, 3, 3))
    assert leaf.tokens == (1, 1, 3, 3)
    assert tree.notes.resident() == []
    check_tree(tree, [])
    store(tree, (9, 9))
    tree.evict(1)
    assert set(_leaves(tree)) == {(1, 1), (9, 9)}
    tree.note_prefix("p", 2, leaf)
    assert tree.notes.resident() == ["p"]


def test_a_name_may_be_pinned_before_it_is_known() -> None:
    tree = make_tree(2, [(1, 1)])
    tree.pin(["p"])
    tree.note_prefix("p", 2, tree.root("").children[0])
    store(tree, (2, 2))
    tree.evict(1)
    assert _leaves(tree) == [(1, 1)]


def test_the_set_of_pins_replaces_the_former_one() -> None:
    tree = make_tree(2, [(1, 1), (2, 2)])
    for node, name in zip(tree.root("").children, "ab", strict=True):
        tree.note_prefix(name, 2, node)
    tree.pin(["a"])
    tree.pin(["b"])
    tree.evict(1)
    assert _leaves(tree) == [(2, 2)]


def test_a_name_that_moves_takes_its_pin_along() -> None:
    """Where it was before, leaves are evicted again as others are."""
    tree = make_tree(2, [(1, 1), (2, 2)])
    first, second = tree.root("").children
    _pin(tree, first, 2)
    tree.note_prefix("p", 2, second)
    check_tree(tree, [])
    tree.evict(1)
    assert _leaves(tree) == [(2, 2)]


def test_a_name_is_pinned_under_every_salt() -> None:
    tree = PrefixTree(2)
    for salt in "ab":
        tree.note_prefix("p", 2, store(tree, (1, 1), salt=salt))
    store(tree, (2, 2), salt="a")
    tree.pin(["p"])
    tree.evict(1)
    assert _leaves(tree) == [(1, 1), (1, 1)]


def test_names_that_are_not_needed_are_forgotten_the_oldest_first() -> None:
    tree = PrefixTree(1, max_notes=3)
    node = store(tree, (1, 2, 3, 4, 5))
    tree.pin(["1"])
    for end in (1, 2, 3, 2, 4, 5):
        tree.note_prefix(str(end), end, node)
    assert tree.notes.resident() == ["5", "4", "1"]


def test_the_queue_stays_short_when_the_same_leaves_are_used_again_and_again() -> None:
    tree = make_tree(2, [(number, number) for number in range(10)])
    for _ in range(1000):
        store(tree, (3, 3))
    assert len(tree.evictable) <= 100
    check_tree(tree, [])
