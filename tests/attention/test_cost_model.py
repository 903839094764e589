"""Which nodes become levels: what is saved has to be worth what a level costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.attention import ALWAYS, CPU, H200, NEVER, CostModel
from parrot_workers.attention.shared_nodes import SharedNode, choose_levels, find_nodes
from parrot_workers.kv_cache import Segment


def _segment(key: int, num_tokens: int) -> Segment:
    return Segment(key, np.zeros(0, np.int32), 0, num_tokens, num_tokens)


def _make_nodes(paths: Sequence[Sequence[tuple[int, int]]], num_rows: int = 1) -> list[SharedNode]:
    """Nodes of sequences with these paths of (key, tokens), each with so many new tokens."""
    paths = sorted(paths, key=lambda path: [key for key, _ in path])
    row_indptr = [index * num_rows for index in range(len(paths) + 1)]
    return find_nodes([[_segment(*each) for each in path] for path in paths], row_indptr)


def _levels(nodes: Sequence[SharedNode]) -> dict[int, int]:
    """Level of each node that has one, by key."""
    return {node.segment.key: node.level for node in nodes if node.is_level}


def _num_read(nodes: Sequence[SharedNode], levels: set[int]) -> int:
    """Tokens that are read if the nodes with these indices are levels, own tokens left out."""

    def below(parent: SharedNode | None, folded: int, first: int, last: int) -> int:
        """Tokens read by the sequences [first, last), which all read `folded` tokens above."""
        num_read, alone = 0, last - first
        for index, node in enumerate(nodes):
            if node.parent is parent and node.first >= first and node.last <= last:
                alone -= node.last - node.first
                carried = folded + node.segment.num_tokens
                is_level = index in levels
                num_read += carried * is_level + below(node, 0 if is_level else carried, node.first, node.last)
        return num_read + alone * folded

    return below(None, 0, 0, max((node.last for node in nodes), default=0))


def _total_cost(nodes: Sequence[SharedNode], levels: set[int], cost: CostModel) -> float:
    """What the model says a step costs, own tokens left out."""
    depths: dict[int, int] = {}
    for index, node in enumerate(nodes):
        parent = next((i for i, each in enumerate(nodes) if each is node.parent), None)
        depths[index] = 0 if parent is None else depths[parent] + (parent in levels)
    num_levels = len({depths[index] for index in levels})
    rows = sum(nodes[index].num_rows for index in levels)
    return (
        _num_read(nodes, levels)
        + cost.level_cost_tokens * num_levels
        + cost.node_cost_tokens * len(levels)
        + cost.row_cost_tokens * rows
    )


@st.composite
def _trees(draw: st.DrawFn) -> list[SharedNode]:
    paths: list[list[tuple[int, int]]] = [[]]
    for key in range(draw(st.integers(1, 6))):
        parent = draw(st.sampled_from([path for path in paths if len(path) < 4]))
        paths.append([*parent, (key, draw(st.integers(0, 300)))])
    sequences = draw(st.lists(st.sampled_from(paths), min_size=1, max_size=12))
    return _make_nodes(sequences, draw(st.integers(1, 3)))


_COSTS = st.builds(
    CostModel,
    level_cost_tokens=st.sampled_from([0.0, 100.0, 1000.0]),
    node_cost_tokens=st.sampled_from([0.0, 50.0, 400.0]),
    row_cost_tokens=st.sampled_from([0.0, 5.0]),
    max_levels=st.integers(0, 4),
)


@given(_trees(), _COSTS)
def test_a_choice_is_never_worse_than_no_levels(nodes: list[SharedNode], cost: CostModel) -> None:
    num_levels = choose_levels(nodes, cost)
    chosen = {index for index, node in enumerate(nodes) if node.is_level}
    assert num_levels <= cost.max_levels
    assert {node.level for node in nodes if node.is_level} == set(range(num_levels)), "no level is empty"
    assert _total_cost(nodes, chosen, cost) <= _total_cost(nodes, set(), cost)


@given(_trees(), _COSTS)
def test_a_choice_is_nearly_the_best_there_is(nodes: list[SharedNode], cost: CostModel) -> None:
    """It misses at most what one level costs, and each node once."""
    cost = replace(cost, max_levels=4)  # no tree has more
    choose_levels(nodes, cost)
    chosen = {index for index, node in enumerate(nodes) if node.is_level}
    subsets = itertools.chain.from_iterable(itertools.combinations(range(len(nodes)), num) for num in range(7))
    best = min(_total_cost(nodes, set(subset), cost) for subset in subsets)
    slack = cost.level_cost_tokens + sum(cost.node_cost_tokens + cost.row_cost_tokens * node.num_rows for node in nodes)
    assert _total_cost(nodes, chosen, cost) <= best + slack


@given(_trees())
def test_always_makes_every_node_with_tokens_a_level(nodes: list[SharedNode]) -> None:
    choose_levels(nodes, ALWAYS)
    assert all(node.is_level == (node.segment.num_tokens > 0) for node in nodes)


@given(_trees())
def test_never_makes_none(nodes: list[SharedNode]) -> None:
    assert choose_levels(nodes, NEVER) == 0
    assert not _levels(nodes)


# -- examples --------------------------------------------------------------------------------------------------------


def test_one_long_prefix_is_one_level() -> None:
    for cost in (CPU, H200):
        nodes = _make_nodes([[(1, 1024)]] * 32)
        assert choose_levels(nodes, cost) == 1
        assert _levels(nodes) == {1: 0}


def test_what_nobody_shares_is_no_level() -> None:
    nodes = _make_nodes([[(key, 4096)] for key in range(8)])
    for cost in (CPU, H200, CostModel()):
        assert choose_levels(nodes, cost) == 0


def test_groups_lie_side_by_side_in_one_level() -> None:
    nodes = _make_nodes([[(key, 512)] for key in (1, 2, 3) for _ in range(8)])
    assert choose_levels(nodes, CPU) == 1
    assert _levels(nodes) == {1: 0, 2: 0, 3: 0}


def test_a_short_common_start_is_folded_into_long_prefixes() -> None:
    cost = CostModel(node_cost_tokens=500)
    nodes = _make_nodes([[(0, 16), (key, 1024)] for key in (1, 2) for _ in range(8)])
    assert choose_levels(nodes, cost) == 1
    assert _levels(nodes) == {1: 0, 2: 0}
    assert [node.num_folded for node in nodes] == [0, 16, 16]


def test_what_is_too_short_alone_is_a_level_together() -> None:
    """Two segments in a row, as two turns of a talk that all sequences have in common."""
    cost = CostModel(node_cost_tokens=1000)
    nodes = _make_nodes([[(1, 100), (2, 100)]] * 8)
    assert choose_levels(nodes, cost) == 1
    assert _levels(nodes) == {2: 0}


def test_a_level_that_does_not_pay_is_folded_whole() -> None:
    paths = [[(0, 4096), (key, 64)] for key in (1, 2, 3, 4) for _ in range(4)]
    cheap, dear = (CostModel(level_cost_tokens=tokens) for tokens in (700, 800))
    assert choose_levels(_make_nodes(paths), cheap) == 2  # saves 4 * 3 * 64 = 768 tokens
    nodes = _make_nodes(paths)
    assert choose_levels(nodes, dear) == 1
    assert _levels(nodes) == {0: 0}


def test_no_more_levels_than_allowed() -> None:
    paths = [[(0, 4096), (key, 64)] for key in (1, 2, 3, 4) for _ in range(4)]
    nodes = _make_nodes(paths)
    assert choose_levels(nodes, CostModel(max_levels=1)) == 1
    assert _levels(nodes) == {0: 0}, "the level that saves most stays"


def test_rows_to_merge_count() -> None:
    """A prefix that pays for 8 tokens of output does not for 8 prompts of 100 tokens."""
    cost = CostModel(row_cost_tokens=10)
    assert choose_levels(_make_nodes([[(1, 512)]] * 8, num_rows=1), cost) == 1
    assert choose_levels(_make_nodes([[(1, 512)]] * 8, num_rows=100), cost) == 0
