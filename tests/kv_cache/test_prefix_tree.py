"""The prefix tree against the set of what its pages must hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from parrot_workers.kv_cache.integrity import check_tree
from parrot_workers.kv_cache.node import Node
from parrot_workers.kv_cache.prefix_tree import PrefixTree
from parrot_workers.kv_cache.search import find_match

from tests.kv_cache.trees import Tokens, make_tree, page_contents, path, store

tokens_strategy = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)
salts = st.sampled_from(["", "a"])


class TreeModel(RuleBasedStateMachine):
    """Holds every prefix that the tree must still know, and the paths that are locked."""

    @initialize(page_size=st.integers(1, 4))
    def begin(self, page_size: int) -> None:
        self.tree = PrefixTree(page_size, max_notes=6)
        self.known: set[tuple[str, Tokens]] = set()
        self.locked: list[Node] = []

    def _prefixes(self, salt: str, tokens: Tokens) -> set[tuple[str, Tokens]]:
        return {(salt, tokens[:end]) for end in range(1, len(tokens) + 1)}

    @rule(tokens=tokens_strategy, salt=salts)
    def store(self, tokens: Tokens, salt: str) -> None:
        store(self.tree, tokens, salt=salt)
        self.known |= self._prefixes(salt, tokens)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def lock(self, data: st.DataObject) -> None:
        """Hold whole pages of something that is known, as a running sequence does."""
        salt, tokens = data.draw(st.sampled_from(sorted(self.known)))
        node = self.tree.place(find_match(self.tree.root(salt), tokens, self.tree.page_size))
        self.tree.lock(node)
        self.locked.append(node)

    @precondition(lambda self: self.locked)
    @rule(data=st.data())
    def unlock(self, data: st.DataObject) -> None:
        node = self.locked.pop(data.draw(st.integers(0, len(self.locked) - 1)))
        assert self.tree.unlock(node) == []

    @precondition(lambda self: self.locked)
    @rule(data=st.data())
    def note(self, data: st.DataObject) -> None:
        """Name some whole pages of a path that is held."""
        node = data.draw(st.sampled_from(self.locked))
        end = data.draw(st.integers(0, node.end // self.tree.page_size)) * self.tree.page_size
        if end:
            self.tree.note_prefix(str((node.salt, path(node)[:end])), end, node)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        """Names that are noted, and one that will be, perhaps."""
        names = [note.name for note in self.tree.notes] + [str(("", (0,) * self.tree.page_size))]
        self.tree.pin(data.draw(st.lists(st.sampled_from(names), max_size=4)))

    @rule(num_pages=st.integers(0, 8), spare=st.integers(0, 2))
    def evict(self, num_pages: int, spare: int) -> None:
        before = page_contents(self.tree)
        held = {page for node in self.tree.nodes() if node.num_locks for page in node.pages.tolist()}
        pinned = self._pinned_pages()
        free = before.keys() - held - pinned
        freed = self.tree.evict(num_pages, spare=spare)
        num_expected = min(num_pages, len(before) - len(held))
        assert len(freed) == max(num_expected, min(num_pages + spare, len(free)))
        assert not set(freed) & held
        assert free <= set(freed) or not set(freed) & pinned, "a pinned page went before one that is not"
        after = page_contents(self.tree)
        assert {page: before[page] for page in before.keys() - freed} == after
        self.known = {known for known in self.known if self._is_held(known, after)}

    def _pinned_pages(self) -> set[int]:
        """Pages that hold some of a noted and pinned prefix."""
        notes = [note for note in self.tree.notes if note.is_pinned]
        covered = {(note.node.salt, path(note.node)[: note.end]) for note in notes}
        return {
            page
            for page, (salt, tokens) in page_contents(self.tree).items()
            if any(salt == other and prefix[: len(tokens)] == tokens for other, prefix in covered)
        }

    def _is_held(self, known: tuple[str, Tokens], contents: dict[int, tuple[str, Tokens]]) -> bool:
        salt, tokens = known
        return any(salt == other and held[: len(tokens)] == tokens for other, held in contents.values())

    @invariant()
    def the_tree_agrees(self) -> None:
        check_tree(self.tree, self.locked)
        for note in self.tree.notes:
            salt, tokens = eval(note.name)
            assert (note.node.salt, path(note.node)[: note.end]) == (salt, tokens[: note.end])
            assert note.is_whole == (note.end == len(tokens))
        for salt, tokens in self.known:
            match = find_match(self.tree.root(salt), tokens, self.tree.page_size)
            assert match.end + match.num_tail == len(tokens), "what was stored is not found"

    @invariant()
    def nobody_else_is_known(self) -> None:
        assert all(content in self.known for content in page_contents(self.tree).values())


TestTreeModel = TreeModel.TestCase
TestTreeModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_what_diverges_inside_a_page_shares_the_pages_before_it() -> None:
    tree = make_tree(4, [(1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 5, 6, 0, 0)])
    (upper,) = tree.root("").children
    assert upper.tokens == (1, 2, 3, 4)
    assert [child.tokens for child in upper.children] == [(5, 6, 0, 0), (5, 6, 7, 8, 9)]


def test_a_leaf_that_nobody_holds_grows_in_place() -> None:
    """A chat goes on: one node, not one more per turn."""
    tree = make_tree(4, [(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
    assert [node.tokens for node in tree.nodes()] == [(), (1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert tree.num_pages == 3


def test_a_leaf_that_is_held_does_not_grow() -> None:
    tree = make_tree(4, [(1, 2, 3, 4)])
    (leaf,) = tree.root("").children
    tree.lock(leaf)
    store(tree, (1, 2, 3, 4, 5))
    assert [node.tokens for node in tree.nodes()] == [(), (1, 2, 3, 4), (5,)]


def test_a_node_keeps_its_identity_as_the_second_part_of_a_split() -> None:
    """So the locks and paths of running sequences stay right."""
    tree = make_tree(2, [(1, 2, 3, 4, 5, 6)])
    (node,) = tree.root("").children
    tree.lock(node)
    store(tree, (1, 2, 9))
    assert path(node) == (1, 2, 3, 4, 5, 6)
    assert (node.start, node.num_locks, node.parent and node.parent.num_locks) == (2, 1, 1)
    check_tree(tree, [node])


def test_trees_of_different_salts_share_nothing() -> None:
    tree = PrefixTree(2)
    store(tree, (1, 2, 3), salt="a")
    assert find_match(tree.root("b"), (1, 2, 3), 2).end == 0


def test_what_nobody_holds_keeps_its_computed_tokens_only() -> None:
    tree = PrefixTree(4)
    root = tree.root("")
    tree.lock(root)
    node = tree.insert(root, tuple(range(12)), [1, 2, 3], num_computed=0, num_locks=1)
    node.mark_computed(5)
    assert tree.unlock(node) == [3]
    assert (node.tokens, node.pages.tolist()) == ((0, 1, 2, 3, 4), [1, 2])
    check_tree(tree, [])


def test_what_a_sibling_has_too_is_not_kept() -> None:
    """Cut to less than a page, a node may hold nothing of its own."""
    tree = make_tree(4, [(1, 2, 3, 9)])
    root = tree.root("")
    tree.lock(root)
    node = tree.insert(root, (1, 2, 3, 4), [7], num_computed=3, num_locks=1)
    assert tree.unlock(node) == [7]
    assert [node.tokens for node in tree.nodes()] == [(), (1, 2, 3, 9)]


def test_an_unused_root_is_forgotten() -> None:
    tree = PrefixTree(2)
    store(tree, (1, 2, 3), salt="a")
    tree.evict(2)
    assert list(tree.nodes()) == []
