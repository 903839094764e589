"""What is wanted of generations: the situations that the rule is made for, and what deduction costs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from types import FrameType

import pytest

from parrot_mq.program import Graph, Node, Objectives, Standing
from parrot_mq.program import objectives as objectives_module
from parrot_mq.types import Objective, TaskId, VariableId

LATENCY = Objective()
THROUGHPUT = Objective(kind="throughput")


class _Program:
    """A graph and what is wanted of it, told as a session tells it."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.objectives = Objectives(self.graph, "t.s")
        self.told: dict[str, Standing] = {}

    def add(self, writes: str, reads: str = "", *, mark: Objective | None = None, at: float = 0.0) -> None:
        """A task that writes one variable and reads others."""
        variable = VariableId(writes)
        node = Node(writes, TaskId(f"task-{writes}"), tuple(map(VariableId, reads.split())), variable)
        self.graph.add([node], known=())
        self.objectives.add([node], stored_at=at, marks={} if mark is None else {variable: mark})

    def finish(self, variable: str) -> None:
        """A variable is set."""
        self.graph.finish(VariableId(variable))
        self.objectives.remove(VariableId(variable))
        self.graph.resolve(VariableId(variable))

    def mark(self, variable: str, objective: Objective, *, only_unmarked: bool = False) -> None:
        """Something is said of a variable."""
        self.objectives.mark(VariableId(variable), objective, only_unmarked=only_unmarked)

    def deduce(self) -> dict[str, Standing]:
        """Draw conclusions; returns what is told."""
        self.told = {str(variable): standing for variable, standing in self.objectives.deduce().items()}
        self.objectives.check_integrity()
        return self.told

    def standing(self, variable: str) -> Standing:
        """How a generation stands."""
        return self.objectives.standing(VariableId(variable))

    def classes(self, variables: Iterable[str]) -> list[str]:
        """`latency` or `throughput` for each, with `group:` before it where it is that of a group."""
        standings = map(self.standing, variables)
        return [f"group:{each.group_kind}" if each.group else each.objective.kind for each in standings]

    def groups(self) -> set[frozenset[str]]:
        """The members of each group."""
        members: dict[str, set[str]] = {}
        for node in self.graph.unfinished:
            if group := self.standing(node.writes).group:
                members.setdefault(group, set()).add(node.writes)
        return set(map(frozenset, members.values()))


def _map_reduce(num: int, *, steps: str = "m") -> _Program:
    """`num` lanes of one or more steps, and `whole` that reads their ends."""
    program = _Program()
    for lane in range(num):
        before = ""
        for step in steps:
            program.add(f"{step}{lane}", before)
            before = f"{step}{lane}"
    program.add("whole", " ".join(f"{steps[-1]}{lane}" for lane in range(num)))
    program.deduce()
    return program


# -- classes ---------------------------------------------------------------------------------------------------------


def test_what_nobody_reads_somebody_waits_for() -> None:
    program = _Program()
    program.add("a")
    program.deduce()
    assert program.standing("a") == Standing(LATENCY)


def test_what_is_marked_throughput_makes_all_that_it_is_made_of_throughput() -> None:
    program = _Program()
    program.add("a")
    program.add("b", "a")
    program.add("c", "b", mark=THROUGHPUT)
    program.deduce()
    assert program.classes("abc") == ["throughput"] * 3
    assert [program.standing(each).stage for each in "abc"] == [2, 1, 0]


def test_whoever_waits_for_one_end_waits_for_all_that_leads_there() -> None:
    program = _Program()
    for writes, reads in (("a", ""), ("b", "a"), ("c", "a")):
        program.add(writes, reads)
    program.add("report", "b", mark=THROUGHPUT)
    program.add("answer", "c", mark=LATENCY)
    program.deduce()
    assert program.classes(["a", "b", "report", "c", "answer"]) == [
        *("latency", "throughput", "throughput", "latency", "latency")
    ]


def test_a_throughput_mark_in_the_middle_does_not_hold_up_what_somebody_waits_for() -> None:
    program = _Program()
    program.add("a", mark=THROUGHPUT)
    program.add("b", "a")
    program.deduce()
    assert program.classes("ab") == ["latency", "latency"]


def test_parrots_figure_9() -> None:
    """Requests 1 and 2 write what is waited for, 3 comes before 2; 4 and 5, 6 and 7 are parallel: two groups."""
    program = _Program()
    for writes, reads in (("6", ""), ("7", ""), ("4", ""), ("5", ""), ("3", "6 7"), ("x", "4 5"), ("y", "3")):
        program.add(writes, reads)
    program.mark("x", LATENCY)
    program.mark("y", LATENCY)
    program.deduce()
    assert program.classes(["x", "y", "3"]) == ["latency"] * 3
    assert program.groups() == {frozenset({"4", "5"}), frozenset({"6", "7"})}
    assert program.classes("4567") == ["group:latency"] * 4
    assert [program.standing(each).objective.kind for each in "4567"] == ["throughput"] * 4, "batched, not raced"
    assert all(program.standing(each).is_urgent for each in "4567")
    assert [program.standing(each).stage for each in "64"] == [2, 1], "what is further from the end goes first"


def test_what_one_reader_and_one_stage_have_in_common_are_lanes_of_a_map() -> None:
    program = _map_reduce(3, steps="mn")
    assert program.groups() == {frozenset({"m0", "m1", "m2"}), frozenset({"n0", "n1", "n2"})}
    assert program.standing("m0").group != program.standing("n0").group
    assert {program.standing("m0").group, program.standing("n0").group} == {"t.s.n0", "t.s.whole"}


def test_the_leaves_of_a_tree_are_one_stage() -> None:
    program = _Program()
    for index in range(4):
        program.add(f"leaf{index}")
    program.add("left", "leaf0 leaf1")
    program.add("right", "leaf2 leaf3")
    program.add("root", "left right")
    program.deduce()
    assert program.groups() == {frozenset({f"leaf{index}" for index in range(4)}), frozenset({"left", "right"})}


def test_the_steps_of_a_chain_are_no_group() -> None:
    program = _Program()
    for index in range(10):
        program.add(f"v{index}", f"v{index - 1}" if index else "")
    program.deduce()
    assert program.groups() == set()
    assert program.classes(f"v{index}" for index in range(10)) == ["latency"] * 10
    assert [program.standing(f"v{index}").stage for index in range(10)] == [8, 8, 4, 4, 4, 4, 3, 2, 1, 0]


def test_the_sides_of_a_diamond_are_a_group() -> None:
    program = _Program()
    for writes, reads in (("a", ""), ("b", "a"), ("c", "a"), ("d", "b c")):
        program.add(writes, reads)
    program.deduce()
    assert program.groups() == {frozenset("bc")}
    assert program.classes("ad") == ["latency", "latency"]


def test_a_part_that_is_read_elsewhere_too_is_raced_and_the_rest_stay_a_group() -> None:
    program = _map_reduce(4)
    program.add("extra", "m0")
    program.deduce()
    assert program.standing("m0") == Standing(LATENCY, stage=1)
    assert program.groups() == {frozenset({"m1", "m2", "m3"})}
    assert program.standing("m1").group_size == 3


# -- changes ---------------------------------------------------------------------------------------------------------


def test_a_mark_that_comes_later_changes_all_that_leads_there() -> None:
    program = _Program()
    program.add("a")
    program.add("b", "a")
    program.deduce()
    program.mark("b", THROUGHPUT)
    assert {name: each.objective.kind for name, each in program.deduce().items()} == dict.fromkeys("ab", "throughput")


def test_throughput_work_is_upgraded_when_somebody_begins_to_wait() -> None:
    program = _Program()
    program.add("a", mark=THROUGHPUT)
    program.add("b", "a", mark=THROUGHPUT)
    program.add("c", "b", mark=THROUGHPUT)
    program.deduce()
    program.mark("b", Objective(tpot_ms=30.0))
    assert set(program.deduce()) == {"a", "b"}
    assert program.classes("abc") == ["latency", "latency", "throughput"]
    assert program.standing("b").objective == Objective(tpot_ms=30.0)
    assert program.standing("a").objective == LATENCY, "targets are for what a person reads"


def test_a_mark_may_come_before_what_it_is_about() -> None:
    program = _Program()
    program.mark("a", THROUGHPUT)
    program.add("a")
    program.deduce()
    assert program.classes("a") == ["throughput"]


def test_what_the_task_says_replaces_what_was_said_before_it_came() -> None:
    program = _Program()
    program.mark("a", THROUGHPUT)
    program.add("a", mark=LATENCY)
    program.deduce()
    assert program.classes("a") == ["latency"]


def test_waiting_does_not_outweigh_what_somebody_said() -> None:
    program = _Program()
    program.add("a", mark=THROUGHPUT)
    program.mark("a", LATENCY, only_unmarked=True)
    program.deduce()
    assert program.classes("a") == ["throughput"]
    program.mark("a", LATENCY)
    program.deduce()
    assert program.classes("a") == ["latency"]


def test_marks_of_variables_that_nobody_writes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives_module, "MAX_EARLY_MARKS", 3)
    program = _Program()
    for name in "abcde":
        program.mark(name, THROUGHPUT)
    for name in "abcde":
        program.add(name)
    program.deduce()
    assert program.classes("abcde") == ["latency", "latency", "throughput", "throughput", "throughput"]


def test_a_mark_is_forgotten_with_its_variable() -> None:
    program = _Program()
    program.add("a", mark=THROUGHPUT)
    program.finish("a")
    program.add("a")
    program.deduce()
    assert program.classes("a") == ["latency"]


def test_a_part_of_a_group_that_somebody_waits_for_is_raced() -> None:
    program = _map_reduce(4)
    program.mark("m2", LATENCY)
    program.deduce()
    assert program.standing("m2") == Standing(LATENCY, stage=1)
    assert program.groups() == {frozenset({"m0", "m1", "m3"})}


def test_a_graph_that_grows_under_a_running_map() -> None:
    """The parts are raced as long as nobody reads them; then they are a group, and each further step moves it back."""
    program = _Program()
    for index in range(8):
        program.add(f"m{index}")
    program.deduce()
    assert program.classes(["m0", "m7"]) == ["latency", "latency"]
    program.finish("m0")
    program.add("whole", " ".join(f"m{index}" for index in range(8)))
    assert set(program.deduce()) == {f"m{index}" for index in range(1, 8)}
    assert program.standing("m1") == Standing(
        THROUGHPUT, group="t.s.whole", group_size=7, group_kind="latency", stage=1
    )
    program.add("report", "whole", mark=THROUGHPUT)
    assert program.deduce()["m1"].group_kind == "throughput"
    assert program.standing("m1").stage == 2


def test_the_last_member_of_a_group_is_raced() -> None:
    program = _map_reduce(3)
    program.finish("m0")
    assert {name: each.group_size for name, each in program.deduce().items()} == {"m1": 2, "m2": 2}
    program.finish("m2")
    assert program.deduce() == {"m1": Standing(LATENCY, stage=1)}
    program.finish("m1")
    assert program.deduce() == {}


def test_when_what_reads_it_is_gone_somebody_waits_for_it_again() -> None:
    program = _map_reduce(2)
    program.finish("whole")
    program.deduce()
    assert program.standing("m0") == program.standing("m1") == Standing(LATENCY)


def test_two_groups_never_have_one_name() -> None:
    """Parts that are read by two, parts that are read by one of these: both could be named after that one."""
    program = _Program()
    for name in ("a0", "a1", "b0", "b1"):
        program.add(name)
    program.add("first", "a0 a1 b0 b1")
    program.add("second", "b0 b1")
    program.deduce()
    assert program.groups() == {frozenset({"a0", "a1"}), frozenset({"b0", "b1"})}


# -- deadlines -------------------------------------------------------------------------------------------------------


def test_what_something_is_made_of_is_due_when_that_is() -> None:
    program = _Program()
    program.add("a", at=100.0)
    program.add("b", "a", mark=Objective(deadline_s=5.0), at=102.0)
    program.add("c", "a", mark=Objective(deadline_s=1.0), at=104.0)
    program.deduce()
    assert [program.standing(each).due_at for each in "abc"] == [105.0, 107.0, 105.0]
    assert program.standing("a").objective.deadline_s is None
    assert [program.objectives.expires_at(VariableId(each)) for each in "abc"] == [None, 107.0, 105.0]
    program.finish("c")
    assert program.deduce()["a"].due_at == 107.0


def test_a_deadline_that_is_moved_moves_what_leads_there() -> None:
    program = _Program()
    for writes, reads in (("a", ""), ("b", "a"), ("c", "b")):
        program.add(writes, reads, at=10.0)
    for deadline_s, due_at in ((4.0, 14.0), (2.0, 12.0), (9.0, 19.0), (None, None)):
        program.mark("c", Objective(deadline_s=deadline_s))
        program.deduce()
        assert [program.standing(each).due_at for each in "abc"] == [due_at] * 3


# -- queries ---------------------------------------------------------------------------------------------------------


def test_only_what_is_unfinished_has_a_standing() -> None:
    program = _Program()
    program.add("a")
    assert program.standing("a") == Standing(), "before anything was deduced"
    program.finish("a")
    with pytest.raises(KeyError):
        program.standing("a")


# -- cost ------------------------------------------------------------------------------------------------------------

NUM = 100_000


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


def _quick_map(num: int) -> tuple[Graph, Objectives, Callable[[], None]]:
    """A map of `num` parts that is read by `whole`, and what adds it."""
    graph = Graph()
    objectives = Objectives(graph, "t.s")
    parts = [Node(f"m{index}", TaskId(f"m{index}"), (), VariableId(f"m{index}")) for index in range(num)]
    whole = Node("whole", TaskId("whole"), tuple(part.writes for part in parts), VariableId("whole"))

    def add() -> None:
        for node in (*parts, whole):
            graph.add([node], known=())
            objectives.add([node], stored_at=0.0)

    return graph, objectives, add


def test_100_000_producers_of_one_consumer_cost_a_few_operations_each() -> None:
    graph, objectives, add = _quick_map(NUM)
    add()
    assert _count_calls(objectives.deduce) < 30 * NUM
    assert objectives.standing(VariableId("m5")).group_size == NUM
    num_told = num_calls = 0
    for index in range(NUM):
        variable = VariableId(f"m{index}")
        graph.finish(variable)
        if index % 1000 == 0:
            num_calls = max(num_calls, _count_calls(functools.partial(objectives.remove, variable)))
        else:
            objectives.remove(variable)
        graph.resolve(variable)
        num_told += len(objectives.deduce())
    assert num_calls < 30, "a finish costs the same at any size"
    assert num_told < 2 * NUM, "a size is told when it is halved"


def test_a_step_behind_many_producers_costs_a_few_operations_and_is_told_at_first_only() -> None:
    num = 10_000
    graph, objectives, add = _quick_map(num)
    add()
    objectives.deduce()
    last, num_told, num_calls = VariableId("whole"), [], []
    for index in range(40):
        node = Node(f"s{index}", TaskId(f"s{index}"), (last,), VariableId(f"s{index}"))
        last = node.writes
        graph.add([node], known=())
        objectives.add([node], stored_at=0.0)
        num_calls.append(_count_calls(lambda: num_told.append(len(objectives.deduce()))))
    assert sum(num_told) < 7 * num
    assert max(calls for calls, told in zip(num_calls, num_told, strict=True) if told < num) < 300


@pytest.mark.parametrize("order", [1, -1])
def test_a_chain_of_any_length_costs_a_few_operations_for_each_step(order: int) -> None:
    num = 20_000
    graph = Graph()
    objectives = Objectives(graph, "t.s")
    names = [VariableId(f"v{index}") for index in range(num)]
    nodes = [Node(name, TaskId(name), (names[index - 1],) if index else (), name) for index, name in enumerate(names)]
    num_calls = num_told = 0
    for number, node in enumerate(nodes[::order]):
        graph.add([node], known=())
        objectives.add([node], stored_at=0.0)
        if number % 1000 == 999:
            num_calls = max(num_calls, _count_calls(objectives.deduce))
        else:
            num_told += len(objectives.deduce())
    assert num_calls < 300
    assert num_told < 8 * num
    for name in names:
        graph.finish(name)
        objectives.remove(name)
        graph.resolve(name)
        assert objectives.deduce() == {}
    assert len(objectives) == 0


def test_readers_that_come_and_go_one_by_one_do_not_make_their_producers_expensive() -> None:
    """Two plans that are still written while thousands of parts that read both come."""
    graph = Graph()
    objectives = Objectives(graph, "t.s")
    plans = [VariableId("p0"), VariableId("p1")]
    for name in plans:
        graph.add([Node(name, TaskId(name), (), name)], known=())
        objectives.add([Node(name, TaskId(name), (), name)], stored_at=0.0)
    num_calls = 0
    for index in range(3_000):
        node = Node(f"m{index}", TaskId(f"m{index}"), tuple(plans), VariableId(f"m{index}"))
        graph.add([node], known=())
        objectives.add([node], stored_at=0.0)
        num_calls = max(num_calls, _count_calls(lambda: objectives.deduce()))
    assert num_calls < 200
    assert objectives.standing(plans[0]).group_size == 2
