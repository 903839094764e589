"""Which requests are computed together: groups with one common prefix. Pure: token ids in, groups out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

__all__ = ["PrefixGroup", "common_prefix_length", "group_by_prefix", "shared_lengths"]

Tokens: TypeAlias = list[int] | str


class PrefixGroup(NamedTuple):
    """Requests that begin alike.

    Attributes:
        prefix_length: Tokens that all members begin with, computed once; 0 for members with nothing in common.
        members: Indices into the sequences that were grouped.
    """

    prefix_length: int
    members: list[int]


def common_prefix_length(a: Tokens, b: Tokens) -> int:
    """Count the leading tokens that `a` and `b` have in common.

    Bisects with slice comparisons: these run at the speed of memory, a loop over tokens does not.
    """
    low, high = 0, min(len(a), len(b))
    while low < high:  # a[:low] == b[:low]; the answer lies in [low, high]
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def group_by_prefix(sequences: Sequence[list[int]], *, min_prefix: int = 16) -> list[PrefixGroup]:
    """Cut requests into groups so that as few tokens as possible are computed.

    A group of n requests with a common prefix of p tokens computes it once and saves (n - 1) * p. The requests are
    sorted, so those that begin alike are neighbours, and the best way to cut the sorted row is found exactly. Among
    equal savings fewer groups win. Requests that share nothing worth a group form one group with prefix length 0.

    Args:
        sequences: Token ids of each prompt, none empty.
        min_prefix: A shorter common prefix is not worth a group.

    Returns:
        Groups whose members, together, are all indices once. A prefix is shorter than each of its members: the last
        token of a prompt is always computed, since its logits are needed.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    ordered = [sequences[index] for index in order]
    groups, alone = [], []
    for begin, end, prefix_length in _best_cuts(ordered, min_prefix):
        if prefix_length:
            groups.append(PrefixGroup(prefix_length, order[begin:end]))
        else:
            alone += order[begin:end]
    return [*groups, PrefixGroup(0, sorted(alone))] if alone else groups


def _best_cuts(ordered: Sequence[list[int]], min_prefix: int) -> list[tuple[int, int, int]]:
    """Half-open ranges [begin, end) of `ordered` and their prefix lengths, by dynamic programming over `end`."""
    num = len(ordered)
    common = [common_prefix_length(ordered[i], ordered[i + 1]) for i in range(num - 1)]
    best: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]  # per end: saved tokens, -groups, begin, prefix_length
    for end in range(1, num + 1):
        candidates = []
        shared = len(ordered[end - 1]) - 1  # tokens that ordered[begin:end] have in common, the last of each left out
        for begin in range(end - 1, -1, -1):
            if begin < end - 1:
                shared = min(shared, common[begin], len(ordered[begin]) - 1)
            prefix_length = shared if shared >= min_prefix and end - begin > 1 else 0
            saved, num_groups, _, _ = best[begin]
            candidates.append((saved + prefix_length * (end - begin - 1), num_groups - 1, begin, prefix_length))
        best.append(max(candidates))
    cuts, end = [], num
    while end:
        _, _, begin, prefix_length = best[end]
        cuts.append((begin, end, prefix_length))
        end = begin
    return cuts[::-1]


def shared_lengths(sequences: Sequence[str]) -> list[int]:
    """Count what a prefix tree would hold already of each sequence, were they added in sorted order."""
    lengths = [0] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    for before, index in pairwise(order):
        lengths[index] = common_prefix_length(sequences[before], sequences[index])
    return lengths
