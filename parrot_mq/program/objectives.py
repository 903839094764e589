"""What is wanted of every unfinished generation, deduced backwards from what is wanted of variables.

A person waits for a variable (`latency`) or only wants it finished some time (`throughput`). If nobody said anything,
what nobody reads is waited for. Going backwards, a generation is urgent if anything that is made of it is. Parallel
generations of one stage (see `stages`) are a node group: the stage is done with its last member, so one that is early
helps nobody. The group as a whole keeps its class, its members are `throughput` each: batched, not raced. What is left
alone in its stage is no group any more.

Deduction follows the graph as it grows and shrinks, and marks as they come; what was deduced before may change at any
time. A change costs as much as there are generations of which something else is wanted afterwards.

Source: Parrot, OSDI'24, section 5.2. There a group is what has one consumer, a mark cannot come later, and every member
of a group of a latency-bound output is latency-bound by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec

from parrot_mq.program.graph import Graph, Node
from parrot_mq.program.stages import Stage, Stages, Wish
from parrot_mq.types import Objective, VariableId

__all__ = ["Objectives", "Standing"]

MAX_EARLY_MARKS: Final = 10_000
"""Marks of variables that nobody writes yet; older ones are forgotten."""

_EXACT_STAGE: Final = 4
_EXACT_SIZE: Final = 8
_NO_MARKS: Final[Mapping[VariableId, Objective]] = {}


@dataclass(frozen=True, slots=True)
class Standing:
    """What deduction says of a generation.

    Attributes:
        objective: What is wanted of it.
        group: Names its node group: parallel producers of one stage, which is judged by its last member. Empty if it is
            alone. `tenant.session.<name>`, so unique in the service.
        group_size: Unfinished members of the group, above 8 within a factor of two; 1 if it is alone.
        group_kind: What is wanted of the group as a whole; as `objective` says if it is empty. A member of a `latency`
            group is `throughput` by itself, for the group is batched and not raced; and yet it goes early.
        stage: Generations on the longest way from it to one that nobody reads: 0 for that one. Of equal work of one
            session, what is further from the end goes first. Above 4 it is rounded down to a power of two, at most 16.
        due_at: When the first thing that is made of it has to be started, or it itself, seconds since 1970; None if
            nobody has said so.
    """

    objective: Objective = Objective()
    group: str = ""
    group_size: int = 1
    group_kind: Literal["", "latency", "throughput"] = ""
    stage: int = 0
    due_at: float | None = None

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for it, or for what becomes of it."""
        return (self.group_kind or self.objective.kind) == "latency"


_KINDS: Final = {"latency": Objective(), "throughput": Objective(kind="throughput")}


@dataclass(slots=True, eq=False)
class _Judged:
    """A generation, and what was said and deduced of it.

    Attributes:
        stored_at: When its task was stored, seconds since 1970.
        mark: What was said of its variable.
        due_at: As in its standing.
        standing: What was deduced last; None before that.
    """

    node: Node
    stored_at: float
    mark: Objective | None = None
    due_at: float | None = None
    standing: Standing | None = None

    @property
    def expires_at(self) -> float | None:
        """When its text is of no use any more, by its own mark."""
        if self.mark is None or self.mark.deadline_s is None:
            return None
        return self.stored_at + self.mark.deadline_s


@dataclass(slots=True)
class _Group:
    """How a stage was told last.

    Attributes:
        name: Unique in the session; empty as long as the stage never had two members.
        size: Members, roughly.
        standing: Of every member of which nothing special is known.
    """

    name: str = ""
    size: int = 1
    standing: Standing = Standing()


class Objectives:
    """What is wanted of the nodes of a graph. Marks and nodes are taken note of at once; `deduce` draws conclusions.

    A variable that is set must have no unfinished producer: `remove` it, then let the graph `resolve` what it wrote.

    Args:
        graph: The unfinished nodes. It takes in a node before this object, and lets go of it before this object.
        session: `tenant.session`, the first part of the names of groups.
    """

    def __init__(self, graph: Graph, session: str = "") -> None:
        self._graph = graph
        self._session = session
        self._stages = Stages(graph)
        self._nodes: dict[VariableId, _Judged] = {}
        self._early_marks: dict[VariableId, Objective] = {}
        self._groups: dict[Stage, _Group] = {}
        self._names: dict[str, Stage] = {}
        self._unjudged: dict[VariableId, None] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    # -- queries -----------------------------------------------------------------------------------------------------

    def standing(self, variable: VariableId) -> Standing:
        """What is wanted of the unfinished node that writes a variable, as of the last `deduce`: Parrot's GetPerfObj.

        Raises:
            KeyError: No unfinished node writes it.
        """
        return self._nodes[variable].standing or Standing()

    def expires_at(self, variable: VariableId) -> float | None:
        """When the text of a variable is of no use any more by its own mark, seconds since 1970; None if it always is.

        What is made of it does not count: something else may be made of it, too.

        Raises:
            KeyError: No unfinished node writes it.
        """
        return self._nodes[variable].expires_at

    def mark_of(self, variable: VariableId) -> Objective | None:
        """What was said of the variable of an unfinished node; None if nothing was said, or no node writes it."""
        judged = self._nodes.get(variable)
        return None if judged is None else judged.mark

    # -- changes -----------------------------------------------------------------------------------------------------

    def add(
        self, nodes: Iterable[Node], *, stored_at: float, marks: Mapping[VariableId, Objective] = _NO_MARKS
    ) -> None:
        """The graph has taken in the nodes of a task.

        Args:
            nodes: The nodes.
            stored_at: When the task was stored, seconds since 1970.
            marks: What the task says of its variables. It replaces what was said of them before.
        """
        for node in nodes:
            early = self._early_marks.pop(node.writes, None)
            judged = _Judged(node, stored_at, marks.get(node.writes, early))
            self._nodes[node.writes] = judged
            self._stages.add(node, _wish(judged.mark))
            self._unjudged[node.writes] = None
            self._find_due(judged)

    def remove(self, variable: VariableId) -> None:
        """A node has left the graph. One that is not here is ignored."""
        judged = self._nodes.pop(variable, None)
        if judged is None:
            return
        self._unjudged.pop(variable, None)
        self._stages.remove(variable)
        if judged.due_at is not None:
            self._find_due_again(judged.node, judged.due_at)

    def mark(self, variable: VariableId, objective: Objective, *, only_unmarked: bool = False) -> None:
        """Say what is wanted of a variable, written by an unfinished node or not yet by any.

        Args:
            variable: Which one.
            objective: What is wanted of it. It replaces what was said before.
            only_unmarked: Do nothing if something was said before.
        """
        judged = self._nodes.get(variable)
        before = self._early_marks.get(variable) if judged is None else judged.mark
        if before == objective or (only_unmarked and before is not None):
            return
        if judged is None:
            self._mark_early(variable, objective)
            return
        expired_at, judged.mark = judged.expires_at, objective
        self._stages.wish(variable, objective.kind)
        self._unjudged[variable] = None
        if judged.expires_at != expired_at:
            self._find_due(judged)

    def _mark_early(self, variable: VariableId, objective: Objective) -> None:
        self._early_marks[variable] = objective
        if len(self._early_marks) > MAX_EARLY_MARKS:
            del self._early_marks[next(iter(self._early_marks))]

    # -- when it is due ----------------------------------------------------------------------------------------------

    def _find_due(self, judged: _Judged) -> None:
        """Find when a node is due, and tell those that it reads from if it has changed."""
        before, judged.due_at = judged.due_at, self._earliest(judged)
        after = judged.due_at
        if after == before:
            return
        self._unjudged[judged.node.writes] = None
        if after is not None and (before is None or after < before):
            self._hurry(judged.node, after)
        elif before is not None:
            self._find_due_again(judged.node, before)

    def _earliest(self, judged: _Judged) -> float | None:
        """When a node is due, or the first thing that is made of it."""
        dues = [
            reader.due_at
            for consumer in self._graph.consumers(judged.node.writes)
            if (reader := self._nodes.get(consumer.writes)) is not None and reader.due_at is not None
        ]
        if judged.expires_at is not None:
            dues.append(judged.expires_at)
        return min(dues, default=None)

    def _hurry(self, node: Node, due_at: float) -> None:
        """What a node is made of is due no later than the node."""
        waiting = [node]
        while waiting:
            for producer in self._producers(waiting.pop()):
                if producer.due_at is None or due_at < producer.due_at:
                    producer.due_at = due_at
                    self._unjudged[producer.node.writes] = None
                    waiting.append(producer.node)

    def _find_due_again(self, node: Node, due_at: float) -> None:
        """A node that was due is gone, or due later: perhaps what it was made of is due later, too."""
        waiting = [node]
        while waiting:
            for producer in self._producers(waiting.pop()):
                if producer.due_at == due_at and (after := self._earliest(producer)) != due_at:
                    producer.due_at = after
                    self._unjudged[producer.node.writes] = None
                    waiting.append(producer.node)

    def _producers(self, node: Node) -> list[_Judged]:
        return [self._nodes[read] for read in node.reads if read in self._nodes]

    # -- deduction ---------------------------------------------------------------------------------------------------

    def deduce(self) -> dict[VariableId, Standing]:
        """Draw conclusions from what has changed.

        Returns:
            The standings that are others than before; those of new nodes are not among them.
        """
        moved, changed = self._stages.settle()
        self._unjudged.update(dict.fromkeys(moved))
        for stage in changed:
            self._regroup(stage)
        unjudged, self._unjudged = self._unjudged, {}
        told: dict[VariableId, Standing] = {}
        for variable in unjudged:
            judged = self._nodes[variable]
            before, judged.standing = judged.standing, self._judge(judged)
            if before is not None and before != judged.standing:
                told[variable] = judged.standing
        return told

    def _regroup(self, stage: Stage) -> None:
        """A stage has changed: judge its members anew if that can be seen of them."""
        group = self._groups.get(stage)
        if not stage.members:
            if group is not None:
                del self._groups[stage], self._names[group.name]
        elif group is None and len(stage.members) == 1:
            self._unjudged.update(stage.members)
        else:
            if group is None:
                group = self._groups[stage] = _Group(self._make_name(stage))
            group.size = _rough_size(len(stage.members), group.size)
            before, group.standing = group.standing, self._describe(stage, group)
            if group.standing != before:
                self._unjudged.update(stage.members)

    def _make_name(self, stage: Stage) -> str:
        """After one that reads the members; if another group has that name already, with a number."""
        reader = next(iter(next(iter(stage.readers)).members))
        name = reader if reader not in self._names else f"{reader}.{stage.number}"  # no variable has a dot in its name
        self._names[name] = stage
        return name

    def _describe(self, stage: Stage, group: _Group) -> Standing:
        if group.size == 1:
            return _alone(stage)
        return Standing(
            _KINDS["throughput"],
            group=f"{self._session}.{group.name}",
            group_size=group.size,
            group_kind=_kind(stage),
            stage=_rough_stage(stage.height),
        )

    def _judge(self, judged: _Judged) -> Standing:
        stage = self._stages[judged.node.writes]
        group = self._groups.get(stage)
        standing = _alone(stage) if group is None else group.standing
        objective = standing.objective
        if judged.mark is not None:
            objective = msgspec.structs.replace(judged.mark, kind=objective.kind)
        if objective == standing.objective and judged.due_at is None:
            return standing
        return replace(standing, objective=objective, due_at=judged.due_at)

    def check_integrity(self) -> None:
        """Prove that after `deduce` all indices agree; for tests."""
        self._stages.check_integrity()
        assert self._nodes.keys() == {node.writes for node in self._graph.unfinished}
        assert not self._unjudged
        assert not self._early_marks.keys() & self._nodes.keys()
        stages: dict[Stage, int] = {}
        for judged in self._nodes.values():
            assert judged.due_at == self._earliest(judged)
            assert judged.standing == self._judge(judged)
            stage = self._stages[judged.node.writes]
            stages[stage] = stages.get(stage, 0) + 1
        assert self._groups.keys() <= stages.keys()
        assert {stage for stage, size in stages.items() if size > 1} <= self._groups.keys()
        assert self._names == {group.name: stage for stage, group in self._groups.items()}
        for stage, group in self._groups.items():
            size = stages[stage]
            assert group.standing == self._describe(stage, group)
            assert group.size == size if size <= _EXACT_SIZE else group.size < 2 * size < 4 * group.size


def _alone(stage: Stage) -> Standing:
    return Standing(_KINDS[_kind(stage)], stage=_rough_stage(stage.height))


def _kind(stage: Stage) -> Literal["latency", "throughput"]:
    return "latency" if stage.is_urgent else "throughput"


def _wish(mark: Objective | None) -> Wish:
    return None if mark is None else mark.kind


def _rough_stage(height: int) -> int:
    return height if height <= _EXACT_STAGE else 1 << (height.bit_length() - 1)


def _rough_size(size: int, before: int) -> int:
    """As before while it is not far from the truth, so that a large group is told of it seldom."""
    is_near = before < 2 * size < 4 * before
    return before if is_near and size > _EXACT_SIZE else size
