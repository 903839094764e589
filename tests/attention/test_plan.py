"""The plan: every row reads each token before it exactly once, whatever the tree and whatever becomes a level."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.attention import ALWAYS, CPU, H200, NEVER, CostModel, SequenceSpan, build_plan
from parrot_workers.kv_cache import OWN, Segment

from tests.attention.trees import TreeStep, read_slots, tree_steps, unhurried

COSTS = st.sampled_from(
    [
        ALWAYS,
        NEVER,
        CPU,
        H200,
        CostModel(),
        CostModel(node_cost_tokens=10, row_cost_tokens=1),
        CostModel(level_cost_tokens=20, min_tokens=5),
        CostModel(max_levels=1),
        CostModel(max_levels=2, min_entries=3),
    ]
)


@unhurried
@given(tree_steps(), COSTS)
def test_each_row_reads_each_token_before_it_once(step: TreeStep, cost: CostModel) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    assert read_slots(plan.levels) == step.expected_slots(plan)
    assert read_slots([plan.flat]) == step.expected_slots(plan)


@unhurried
@given(tree_steps(), COSTS)
def test_rows_tell_where_their_tokens_are(step: TreeStep, cost: CostModel) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    rows = step.expected_rows(plan)
    assert sorted(plan.order) == list(range(len(step.spans)))
    assert plan.num_rows == len(rows)
    assert plan.positions.tolist() == [position for _, position in rows]
    assert plan.slots.tolist() == [step.slots[step.paths[index][position]] for index, position in rows]
    assert [rows[row] for row in plan.last_rows] == [(index, step.spans[index].end - 1) for index in plan.order]


@unhurried
@given(tree_steps(), COSTS)
def test_levels_have_the_form_that_kernels_take(step: TreeStep, cost: CostModel) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    assert plan.positions.dtype == plan.slots.dtype == np.int64
    for level in (*plan.levels, plan.flat):
        arrays = (level.qo_indptr, level.kv_indptr, level.kv_indices, level.kv_last_page_len)
        assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
        assert level.qo_indptr[0] == level.kv_indptr[0] == 0
        assert level.qo_indptr[-1] == plan.num_rows, "every level covers all rows"
        assert level.kv_indptr[-1] == len(level.kv_indices)
        assert (np.diff(level.qo_indptr) > 0).all()
        assert len(level.qo_indptr) == len(level.kv_indptr) == level.num_entries + 1
        is_empty = np.diff(level.kv_indptr) == 0
        assert (level.kv_last_page_len[is_empty] == 0).all()
        assert ((level.kv_last_page_len >= 1) & (level.kv_last_page_len <= level.page_size))[~is_empty].all()
    own = plan.levels[-1]
    assert own.num_entries == plan.flat.num_entries == len(step.spans)
    assert (own.kv_lens >= np.diff(own.qo_indptr)).all(), "the own entry holds the new tokens"


@unhurried
@given(tree_steps(is_aligned=True), COSTS)
def test_whole_pages_stay_pages(step: TreeStep, cost: CostModel) -> None:
    """Only segments that end inside a page, which the prefix tree never makes, need indices by slot."""
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    assert {level.page_size for level in (*plan.levels, plan.flat)} == {step.page_size}


@unhurried
@given(tree_steps(), COSTS)
def test_statistics_count_what_is_read(step: TreeStep, cost: CostModel) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    assert plan.statistics.num_levels == len(plan.levels) - 1
    assert plan.statistics.num_flat_tokens == plan.flat.kv_lens.sum() == sum(span.end for span in step.spans)
    assert plan.statistics.num_read_tokens == sum(level.kv_lens.sum() for level in plan.levels)
    assert plan.statistics.num_read_tokens <= plan.statistics.num_flat_tokens


@unhurried
@given(tree_steps())
def test_without_levels_each_sequence_reads_its_whole_path(step: TreeStep) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=NEVER)
    assert plan.levels == (plan.flat,)


@unhurried
@given(tree_steps(), st.integers(1, 60))
def test_a_window_needs_the_whole_path_only_if_it_hides_something(step: TreeStep, window: int) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=ALWAYS)
    is_hiding = any(span.end > window for span in step.spans)
    assert plan.levels_for(window) == ((plan.flat,) if is_hiding else plan.levels)
    assert plan.levels_for(None) == plan.levels


# -- examples --------------------------------------------------------------------------------------------------------


def _segment(key: int, first_page: int, start: int, num_tokens: int) -> Segment:
    pages = np.arange(first_page, first_page + -(-num_tokens // 4), dtype=np.int32)
    return Segment(key, pages, start, num_tokens, num_tokens)


def test_two_groups_of_decoding_sequences() -> None:
    """The arrays that FlashInfer documents for two levels."""
    a, b = _segment(7, 10, 0, 8), _segment(3, 20, 0, 4)
    paths = [(a, _segment(OWN, 1, 8, 5)), (b, _segment(OWN, 5, 4, 4)), (a, _segment(OWN, 3, 8, 6))]
    spans = [SequenceSpan(segments=path, begin=end - 1, end=end) for path, end in zip(paths, (13, 8, 14), strict=True)]
    plan = build_plan(spans, page_size=4, cost=ALWAYS)
    assert plan.order == [1, 0, 2]  # groups in the order of their keys, shorter sequences first
    upper, own = plan.levels
    assert upper.qo_indptr.tolist() == [0, 1, 3]
    assert upper.kv_indptr.tolist() == [0, 1, 3]
    assert upper.kv_indices.tolist() == [20, 10, 11]
    assert upper.kv_last_page_len.tolist() == [4, 4]
    assert own.qo_indptr.tolist() == [0, 1, 2, 3]
    assert own.kv_indices.tolist() == [5, 1, 2, 3, 4]
    assert own.kv_last_page_len.tolist() == [4, 1, 2]
    assert plan.positions.tolist() == [7, 12, 13]
    assert plan.slots.tolist() == [23, 8, 17]


def test_who_computes_a_prefix_reads_it_as_its_own_while_siblings_share_it() -> None:
    """All in one step: keys and values are written before attention runs."""
    prefix = _segment(1, 10, 0, 8)
    first = SequenceSpan(segments=(prefix, _segment(OWN, 1, 8, 3)), begin=2, end=11)
    others = [SequenceSpan(segments=(prefix, _segment(OWN, page, 8, 2)), begin=8, end=10) for page in (2, 3)]
    plan = build_plan([others[0], first, others[1]], page_size=4, cost=ALWAYS)
    assert plan.order == [1, 0, 2]
    upper, own = plan.levels
    assert upper.qo_indptr.tolist() == [0, 9, 13]
    assert upper.kv_indptr.tolist() == [0, 0, 2]
    assert own.kv_lens.tolist() == [11, 2, 2]


def test_a_chunk_of_a_prompt_reads_only_to_its_end() -> None:
    """The prompt's pages are in the tree before they are computed, and more of them than this step reaches."""
    prompt = _segment(1, 10, 0, 40)
    plan = build_plan(
        [SequenceSpan(segments=(prompt, _segment(OWN, 1, 40, 1)), begin=6, end=17)], page_size=4, cost=ALWAYS
    )
    (own,) = plan.levels
    assert own.kv_indices.tolist() == [10, 11, 12, 13, 14]
    assert own.kv_last_page_len.tolist() == [1]
    assert plan.slots.tolist() == list(range(46, 57))


def test_pages_behind_the_last_token_are_not_read() -> None:
    """A sequence may hold pages for tokens to come."""
    own = Segment(OWN, np.arange(1, 9, dtype=np.int32), 0, 5, 5)
    plan = build_plan([SequenceSpan(segments=(own,), begin=5, end=6)], page_size=4, cost=ALWAYS)
    assert plan.levels[0].kv_indices.tolist() == [1, 2]


def test_missing_pages_are_noticed() -> None:
    own = _segment(OWN, 1, 0, 4)
    with pytest.raises(AssertionError, match="fewer pages"):
        build_plan([SequenceSpan(segments=(own,), begin=4, end=5)], page_size=4, cost=ALWAYS)


def test_a_large_step_is_planned_in_little_time() -> None:
    """256 sequences of 130 pages; well under 2 ms when nothing else runs, and no more than a loop over all pages is."""
    roots = [_segment(key, 1 + 64 * key, 0, 256) for key in range(8)]
    spans = [
        SequenceSpan(segments=(roots[index % 8], _segment(OWN, 600 + 66 * index, 256, 264)), begin=519, end=520)
        for index in range(256)
    ]
    durations = []
    for _ in range(5):
        start = time.thread_time()
        build_plan(spans, page_size=4, cost=ALWAYS)
        durations.append(time.thread_time() - start)
    assert min(durations) < 0.01
