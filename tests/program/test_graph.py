"""The task graph: rules, and chains too long to recurse."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from parrot_mq.errors import DuplicateProducer, GraphCycleError
from parrot_mq.program import FailedNode, Graph, Node
from parrot_mq.types import TaskId, VariableId


def _node(writes: str, reads: str = "") -> Node:
    return Node(f"key-{writes}", TaskId(f"task-{writes}"), tuple(map(VariableId, reads.split())), VariableId(writes))


def _v(name: str) -> VariableId:
    return VariableId(name)


def _graph(*nodes: Node) -> Graph:
    graph = Graph()
    for node in nodes:
        graph.add([node], known=())
    return graph


def _writes(nodes: list[Node]) -> list[str]:
    return [node.writes for node in nodes]


def _snapshot(graph: Graph) -> object:
    graph.check_integrity()
    return [(node, graph.missing(node), graph.consumers(node.writes)) for node in graph.unfinished]


def test_a_node_is_ready_when_all_it_reads_is_known() -> None:
    graph = Graph()
    ready = graph.add([_node("a"), _node("b", "x"), _node("c", "x y"), _node("d", "a")], known={_v("x")})
    assert _writes(ready) == ["a", "b"]
    assert graph.missing(_node("c", "x y")) == ("y",)


def test_setting_a_variable_makes_its_last_waiting_readers_ready() -> None:
    graph = _graph(_node("c", "x y"), _node("d", "y"))
    assert _writes(graph.resolve(_v("y"))) == ["d"]
    assert _writes(graph.resolve(_v("x"))) == ["c"]


def test_setting_a_variable_twice_changes_nothing() -> None:
    graph = _graph(_node("c", "x y"))
    assert graph.resolve(_v("x")) == []
    assert graph.resolve(_v("x")) == []
    assert _writes(graph.resolve(_v("y"))) == ["c"]
    assert graph.resolve(_v("y")) == []


def test_setting_a_variable_that_nobody_reads_is_fine() -> None:
    assert _graph(_node("a")).resolve(_v("z")) == []


def test_producer_and_consumers_are_the_unfinished_nodes() -> None:
    a, b, c = _node("a"), _node("b", "a"), _node("c", "a b")
    graph = _graph(a, b, c)
    graph.resolve(_v("a"))
    assert graph.producer(_v("a")) == a
    assert graph.consumers(_v("a")) == (b, c)
    assert graph.consumers(_v("c")) == ()
    assert graph.producer(_v("z")) is None
    assert graph.unfinished == (a, b, c)
    assert len(graph) == 3


def test_a_finished_node_leaves_the_graph() -> None:
    graph = _graph(_node("a", "x"), _node("b", "a x"))
    assert graph.finish(_v("b"))
    assert not graph.finish(_v("b"))
    assert graph.consumers(_v("a")) == ()
    assert graph.consumers(_v("x")) == (_node("a", "x"),)
    assert _writes(graph.resolve(_v("x"))) == ["a"]
    graph.check_integrity()


def test_finishing_a_producer_does_not_tell_its_consumers() -> None:
    graph = _graph(_node("a"), _node("b", "a"))
    graph.finish(_v("a"))
    assert graph.missing(_node("b", "a")) == ("a",)
    assert _writes(graph.resolve(_v("a"))) == ["b"]


def test_an_empty_graph_keeps_nothing() -> None:
    """A session may live for long: what is finished leaves no trace."""
    graph = _graph(_node("a", "x"), _node("b", "a y"))
    for name in "ab":
        graph.finish(_v(name))
    assert not [name for name, index in vars(graph).items() if len(index)]


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_failure_removes_all_that_can_never_run_with_the_input_that_failed() -> None:
    graph = _graph(_node("a"), _node("b", "a"), _node("c", "b x"), _node("d", "x"))
    assert graph.fail(_v("a")) == [FailedNode(_node("b", "a"), _v("a")), FailedNode(_node("c", "b x"), _v("b"))]
    assert graph.unfinished == (_node("a"), _node("d", "x"))
    assert graph.fail(_v("a")) == []
    graph.check_integrity()


def test_failed_nodes_come_after_the_failed_nodes_that_they_read() -> None:
    """`late` reads the root and also `mid`, so breadth-first order would be wrong."""
    graph = _graph(_node("late", "root mid"), _node("mid", "root"), _node("last", "late mid"))
    failed = graph.fail(_v("root"))
    assert [(each.writes, each.failed_read) for each in failed] == [("mid", "root"), ("late", "root"), ("last", "mid")]


def test_a_node_that_is_ready_does_not_fail_by_a_variable_that_was_set() -> None:
    graph = _graph(_node("b", "a"))
    graph.resolve(_v("a"))
    assert graph.fail(_v("a")) == []
    assert len(graph) == 1


def test_a_node_added_after_its_input_failed_fails_when_told() -> None:
    graph = Graph()
    assert graph.add([_node("b", "a"), _node("c", "b")], known=()) == []
    assert [each.writes for each in graph.fail(_v("a"))] == ["b", "c"]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_variable_has_one_producer() -> None:
    graph = _graph(_node("a", "x"), _node("b", "a"))
    before = _snapshot(graph)
    with pytest.raises(DuplicateProducer) as caught:
        graph.add([_node("c"), _node("a", "y")], known=())
    assert caught.value.message == "variable 'a' is already written by task 'task-a'"
    assert _snapshot(graph) == before


def test_two_new_nodes_cannot_write_one_variable() -> None:
    graph = Graph()
    with pytest.raises(DuplicateProducer):
        graph.add([_node("a"), _node("a", "x")], known=())
    assert len(graph) == 0


@pytest.mark.parametrize(
    ("old", "new", "cycle"),
    [
        ([], [("a", "a")], ["a", "a"]),
        ([], [("a", "b"), ("b", "a")], ["b", "a", "b"]),
        ([("a", "b")], [("b", "a")], ["b", "a", "b"]),
        ([("c", "b"), ("b", "a")], [("a", "x c")], ["a", "b", "c", "a"]),
        ([("c", "a"), ("c2", "b"), ("b", "a")], [("x", ""), ("a", "c2")], ["a", "b", "c2", "a"]),
    ],
)
def test_a_cycle_is_named_and_leaves_the_graph_unchanged(
    old: list[tuple[str, str]], new: list[tuple[str, str]], cycle: list[str]
) -> None:
    graph = _graph(*(_node(*each) for each in old))
    before = _snapshot(graph)
    with pytest.raises(GraphCycleError) as caught:
        graph.add([_node(*each) for each in new], known=())
    assert caught.value.message == f"the task waits for its own output: {' -> '.join(cycle)}"
    assert _snapshot(graph) == before


def test_the_shortest_cycle_is_named() -> None:
    graph = _graph(_node("b", "a"), _node("c", "b"), _node("d", "c a"))
    with pytest.raises(GraphCycleError) as caught:
        graph.add([_node("a", "d")], known=())
    assert caught.value.cycle == ["a", "d", "a"]


def test_a_long_cycle_is_named_in_part() -> None:
    graph = _graph(*(_node(f"v{index}", f"v{index - 1}") for index in range(1, 5000)))
    with pytest.raises(GraphCycleError) as caught:
        graph.add([_node("v0", "v4999")], known=())
    assert caught.value.cycle == [
        *("v0", "v1", "v2", "v3", "v4", "v5", "…", "v4995", "v4996", "v4997", "v4998", "v4999", "v0")
    ]


def test_reading_a_known_variable_is_no_dependency() -> None:
    """`a` was set by somebody else, so whoever reads it does not wait for its producer."""
    graph = Graph()
    graph.add([_node("a", "b")], known=())
    ready = graph.add([_node("b", "a")], known={_v("a")})
    assert _writes(ready) == ["b"]


# -- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_a_chain_of_100_000_nodes_neither_recurses_nor_crawls(order: int) -> None:
    nodes = [_node(f"v{index}", f"v{index - 1}") for index in range(100_000)]
    graph = Graph()
    for node in nodes[::order]:
        graph.add([node], known=())
    for node in nodes[:1000]:
        (ready,) = graph.resolve(node.reads[0])
        assert ready is node
        graph.finish(node.writes)
    failed = graph.fail(nodes[999].writes)
    assert [each.node for each in failed] == nodes[1000:]
    assert len(graph) == 0


def test_nodes_in_the_middle_of_a_large_graph_are_not_searched_for_cycles_each_time() -> None:
    """Ranks make room once; so a session cannot take the coordinator's time by adding between two long chains."""
    num = 1000
    middle = [_node(f"m{index}", f"u{num - 1}") for index in range(num)]
    graph = _graph(*(_node(f"u{index}", f"u{index - 1}") for index in range(num)))
    graph.add([_node("d0", " ".join(node.writes for node in middle))], known=())
    for index in range(1, num):
        graph.add([_node(f"d{index}", f"d{index - 1}")], known=())
    num_steps = _count_calls(lambda: [graph.add([node], known=()) for node in middle])
    graph.check_integrity()
    assert num_steps < 100 * num


def _count_calls(function: Callable[[], object]) -> int:
    """How many Python functions a call runs: a measure of work that does not depend on the machine."""
    num_calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal num_calls
        num_calls += event == "call"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return num_calls
