"""Which segments the sequences of a step have in common, and which of them become levels. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parrot_workers.attention.cost_model import CostModel

if TYPE_CHECKING:
    from parrot_workers.kv_cache import Segment

__all__ = ["SharedNode", "choose_levels", "find_nodes"]


@dataclass(slots=True, kw_only=True)
class SharedNode:
    """A segment with the sequences that read it: [first, last) in packed order.

    Attributes:
        segment: Its tokens and pages.
        parent: The segment before it on the path.
        depth: Segments before it on the path.
        first: The first sequence that reads it.
        last: After the last one.
        num_rows: New tokens of those sequences.
        is_level: Whether it is read once for all of them; else it is folded into what lies below.
        level: Which level, counted from the root; meaningless while `is_level` is false.
        num_entries: Entries that read it, or would, were it folded.
        num_folded: Tokens of ancestors that are read together with it.
        gain: KV tokens that are saved when it is a level.
    """

    segment: Segment
    parent: SharedNode | None
    depth: int
    first: int
    last: int = 0
    num_rows: int = 0
    is_level: bool = False
    level: int = 0
    num_entries: int = 0
    num_folded: int = 0
    gain: float = 0.0


def find_nodes(paths: Sequence[Sequence[Segment]], row_indptr: Sequence[int]) -> list[SharedNode]:
    """Build the tree of the paths, each node before its descendants.

    Args:
        paths: What each sequence may share, root first; equal beginnings must be side by side.
        row_indptr: Offsets of each sequence's rows, one more than there are paths.
    """
    nodes: list[SharedNode] = []
    open_nodes: list[SharedNode] = []
    before: Sequence[Segment] = ()
    for index, path in enumerate(paths):
        num_common = _num_common(before, path)
        _close(open_nodes, num_common, index, row_indptr)
        for depth in range(num_common, len(path)):
            parent = open_nodes[-1] if open_nodes else None
            node = SharedNode(segment=path[depth], parent=parent, depth=depth, first=index)
            nodes.append(node)
            open_nodes.append(node)
        before = path
    _close(open_nodes, 0, len(paths), row_indptr)
    return nodes


def _num_common(a: Sequence[Segment], b: Sequence[Segment]) -> int:
    num = 0
    for x, y in zip(a, b, strict=False):
        if x.key != y.key:
            break
        num += 1
    return num


def _close(open_nodes: list[SharedNode], num_left: int, last: int, row_indptr: Sequence[int]) -> None:
    for node in open_nodes[num_left:]:
        node.last = last
        node.num_rows = row_indptr[last] - row_indptr[node.first]
    del open_nodes[num_left:]


def choose_levels(nodes: Sequence[SharedNode], cost: CostModel) -> int:
    """Decide for each node whether it becomes a level, and which; returns the number of levels.

    First from the leaves up, each node by its own tokens: what is gained by a level depends on how often the node is
    read otherwise, which is known once its descendants are settled. Then from the root down, for nodes that are worth
    it only together with what is folded into them. A level whose nodes together do not pay for it is folded whole.
    """
    if not cost.max_levels:
        return 0
    _choose_from_leaves(nodes, cost)
    _choose_from_root(nodes, cost)
    while totals := _count(nodes, cost):
        weakest = min(range(len(totals)), key=totals.__getitem__)
        if len(totals) <= cost.max_levels and totals[weakest] > cost.level_cost_tokens:
            break
        for node in nodes:
            node.is_level = node.is_level and node.level != weakest
    return len(totals)


def _choose_from_leaves(nodes: Sequence[SharedNode], cost: CostModel) -> None:
    _reset_entries(nodes)
    for node in reversed(nodes):
        node.is_level = _gain(node, cost) > 0
        _pass_entries_up(node)


def _choose_from_root(nodes: Sequence[SharedNode], cost: CostModel) -> None:
    for node in nodes:
        _pass_folded_down(node)
        node.is_level = node.is_level or _gain(node, cost) > 0


def _count(nodes: Sequence[SharedNode], cost: CostModel) -> list[float]:
    """Number the levels, count what they read, and sum the gain of each."""
    _reset_entries(nodes)
    for node in reversed(nodes):
        _pass_entries_up(node)
    totals: list[float] = []
    for node in nodes:
        _pass_folded_down(node)
        parent = node.parent
        node.level = 0 if parent is None else parent.level + parent.is_level
        if not node.is_level:
            continue
        if node.level == len(totals):
            totals.append(0.0)
        totals[node.level] += _gain(node, cost)
    return totals


def _gain(node: SharedNode, cost: CostModel) -> float:
    num_tokens = node.segment.num_tokens + node.num_folded
    return cost.gain(num_entries=node.num_entries, num_tokens=num_tokens, num_rows=node.num_rows)


def _reset_entries(nodes: Sequence[SharedNode]) -> None:
    for node in nodes:
        node.num_entries = node.last - node.first


def _pass_entries_up(node: SharedNode) -> None:
    """Below its parent the sequences of a level are one entry, those of a folded node as many as it has."""
    if node.parent is not None:
        num_seen = 1 if node.is_level else node.num_entries
        node.parent.num_entries += num_seen - (node.last - node.first)


def _pass_folded_down(node: SharedNode) -> None:
    parent = node.parent
    node.num_folded = 0
    if parent is not None and not parent.is_level:
        node.num_folded = parent.num_folded + parent.segment.num_tokens
