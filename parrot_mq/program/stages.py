"""Which generations are of one stage: parallel, and of use only together.

What somebody waits for is a stage of its own: what is marked `latency`, and what nobody reads. All others are of one
stage if what reads them is of the same stages. So the parts of a map are one stage, however many steps each of them
takes, and so are the leaves of a tree; the steps of a chain are a stage each.

Stages keep their identity when the graph grows behind them: what reads a stage is told apart by which stage it is, not
by what that stage reads in turn. So a change costs as much as there are generations that get into another stage by it,
and stages whose height or class changes; a step more behind a map of 100,000 parts is a few operations.

Source: Parrot, OSDI'24, section 5.2 (task groups); the rule is the coarsest bisimulation of a graph without cycles, as
in R. Paige and R. E. Tarjan, Three partition refinement algorithms, 1987.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from parrot_mq.program.graph import Graph, Node
from parrot_mq.types import VariableId

__all__ = ["MAX_HEIGHT", "Stage", "Stages", "Wish"]

Wish = Literal["latency", "throughput"] | None
"""What was said of a variable; None if nobody said anything."""

MAX_HEIGHT: Final = 16
"""What is further from the end counts as no further than this, so that one step more does not change a whole chain."""


@dataclass(slots=True, eq=False)
class Stage:
    """Generations of one stage, named by what they write.

    Attributes:
        number: Of its own; a stage that comes later has a larger one.
        members: At least one, the oldest first.
        height: Generations on the longest way from a member to one that nobody reads, at most `MAX_HEIGHT`.
        is_urgent: Whether somebody waits for what becomes of it.
    """

    number: int
    members: dict[VariableId, None] = field(default_factory=dict)
    height: int = 0
    is_urgent: bool = False
    # The rest is for `Stages`.
    token: int = field(init=False)
    """A number that looks random; those of its readers make the signature of a stage."""
    readers: dict[Stage, int] = field(default_factory=dict)
    """The stages that read it, and how many members each of them reads: all of them, once everything is settled."""
    feeders: dict[Stage, None] = field(default_factory=dict)
    """The stages that it reads."""
    signature: int | None = None
    """Of the stages that read it; None if somebody waits for it."""
    num_urgent: int = 0
    """How many of its readers are urgent."""
    tallest: Stage | None = None
    """One of the highest of its readers; None if that is not known."""

    def __post_init__(self) -> None:
        self.token = _mix(self.number)


def _mix(number: int) -> int:
    """A number of 64 bits that looks random: one step of SplitMix64 (G. Steele et al., 2014)."""
    mixed = (number * 0x9E3779B97F4A7C15) & _64_BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return mixed ^ (mixed >> 31)


_64_BITS: Final = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class _Place:
    """A generation and the stage that it is in.

    Attributes:
        readers: The stages that read it, and how many generations of each.
        signature: The tokens of these stages, joined by exclusive or: it is equal for equal sets of stages, and costs
            one operation when a stage comes or goes.
    """

    node: Node
    wish: Wish
    stage: Stage
    readers: dict[Stage, int] = field(default_factory=dict)
    signature: int = 0

    @property
    def is_awaited(self) -> bool:
        """Whether it is a stage of its own."""
        return self.wish == "latency" or not self.readers

    @property
    def is_wanted_soon(self) -> bool:
        """Whether somebody waits for its own text: nobody reads it, so somebody will, unless they said otherwise."""
        return self.wish == "latency" or (self.wish is None and not self.readers)


class Stages:
    """The stages of a graph. Changes are taken note of at once; what follows from them is found by `settle`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places: dict[VariableId, _Place] = {}
        self._by_signature: dict[int, Stage] = {}
        self._num_stages = 0
        self._misplaced: dict[VariableId, None] = {}
        self._heap: list[tuple[int, VariableId]] | None = None  # the misplaced ones, while they find their place
        self._unweighed: dict[Stage, None] = {}
        self._moved: dict[VariableId, None] = {}
        self._changed: dict[Stage, None] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, variable: VariableId) -> Stage:
        return self._places[variable].stage

    # -- changes -----------------------------------------------------------------------------------------------------

    def add(self, node: Node, wish: Wish) -> None:
        """The graph has taken in a node; nodes that it reads from and that read it may be added before or after it."""
        place = _Place(node, wish, self._make_stage())
        place.stage.members[node.writes] = None
        self._places[node.writes] = place
        self._misplace(place)
        for consumer in self._graph.consumers(node.writes):
            if (reader := self._places.get(consumer.writes)) is not None:
                self._link(place, reader.stage)
        for producer in self._producers(node):
            self._link(producer, place.stage)

    def remove(self, variable: VariableId) -> None:
        """A node has left the graph."""
        place = self._places.pop(variable)
        self._misplaced.pop(variable, None)
        self._moved.pop(variable, None)
        for producer in self._producers(place.node):
            self._unlink(producer, place.stage)
        self._leave(place)

    def wish(self, variable: VariableId, wish: Wish) -> None:
        """Something else is wanted of a variable."""
        place = self._places[variable]
        if place.wish != wish:
            place.wish = wish
            self._misplace(place)

    def _link(self, place: _Place, reader: Stage) -> None:
        """One more generation of a stage reads this one."""
        num_readers = place.readers[reader] = place.readers.get(reader, 0) + 1
        if num_readers == 1:
            place.signature ^= reader.token
            self._join(place.stage, reader)
            self._misplace(place)

    def _unlink(self, place: _Place, reader: Stage) -> None:
        place.readers[reader] -= 1
        if not place.readers[reader]:
            del place.readers[reader]
            place.signature ^= reader.token
            self._part(place.stage, reader)
            self._misplace(place)

    def _join(self, stage: Stage, reader: Stage) -> None:
        """One more member of a stage is read by another stage."""
        num_read = stage.readers[reader] = stage.readers.get(reader, 0) + 1
        if num_read == 1:
            reader.feeders[stage] = None
            stage.num_urgent += reader.is_urgent
            if len(stage.readers) == 1 or (stage.tallest is not None and reader.height > stage.tallest.height):
                stage.tallest = reader
            self._unweighed[stage] = None

    def _part(self, stage: Stage, reader: Stage) -> None:
        stage.readers[reader] -= 1
        if not stage.readers[reader]:
            del stage.readers[reader]
            del reader.feeders[stage]
            stage.num_urgent -= reader.is_urgent
            if stage.tallest is reader:
                stage.tallest = None
            self._unweighed[stage] = None

    def _misplace(self, place: _Place) -> None:
        """Look at a generation once more: another stage may be the right one for it."""
        variable = place.node.writes
        self._unweighed[place.stage] = None
        if variable not in self._misplaced:
            self._misplaced[variable] = None
            if self._heap is not None:
                heapq.heappush(self._heap, (-self._graph.rank(variable), variable))

    # -- consequences ------------------------------------------------------------------------------------------------

    def settle(self) -> tuple[list[VariableId], list[Stage]]:
        """Find what follows from the changes.

        Returns:
            The nodes that are in another stage than before, and the stages of which members, height or class have
            changed; one without members is gone.
        """
        self._settle_places()
        self._settle_weights()
        moved, self._moved = self._moved, {}
        changed, self._changed = self._changed, {}
        return list(moved), list(changed)

    def _settle_places(self) -> None:
        """Put every misplaced generation where it belongs, readers before what they read: so each is moved once."""
        heap = self._heap = [(-self._graph.rank(variable), variable) for variable in self._misplaced]
        heapq.heapify(heap)
        while heap:
            _, variable = heapq.heappop(heap)
            if variable in self._misplaced:
                del self._misplaced[variable]
                place = self._places[variable]
                self._place(place)
                self._unweighed.pop(place.stage, None)
                self._unweighed[place.stage] = None  # now the last one: readers are weighed before what they read
        self._heap = None
        self._misplaced = {}  # a new one: reading one that was large costs as much as when it was

    def _place(self, place: _Place) -> None:
        signature = None if place.is_awaited else place.signature
        target = None if signature is None else self._by_signature.get(signature)
        if target is not None:
            if target is not place.stage:
                self._move(place, target)
            return
        if not self._is_of_one_mind(place):
            self._move(place, self._make_stage())
        self._list(place.stage, signature)

    def _is_of_one_mind(self, place: _Place) -> bool:
        """Whether the whole stage goes the same way, so that it may keep its identity."""
        if len(place.stage.members) == 1:
            return True
        members = (self._places[variable] for variable in place.stage.members)
        return not place.is_awaited and all(
            member.signature == place.signature and not member.is_awaited for member in members
        )

    def _list(self, stage: Stage, signature: int | None) -> None:
        """List a stage under its signature, and no longer under another one."""
        self._unlist(stage)
        stage.signature = signature
        if signature is not None:
            self._by_signature[signature] = stage

    def _unlist(self, stage: Stage) -> None:
        if stage.signature is not None:
            del self._by_signature[stage.signature]
            stage.signature = None

    def _move(self, place: _Place, target: Stage) -> None:
        origin = place.stage
        self._leave(place)
        place.stage = target
        target.members[place.node.writes] = None
        for reader in place.readers:
            self._join(target, reader)
        for producer in self._producers(place.node):
            self._link(producer, target)
            self._unlink(producer, origin)
        self._moved[place.node.writes] = None
        self._changed[target] = None
        self._unweighed[target] = None

    def _leave(self, place: _Place) -> None:
        """Take a generation out of its stage; an empty one is gone."""
        stage = place.stage
        del stage.members[place.node.writes]
        for reader in place.readers:
            self._part(stage, reader)
        self._changed[stage] = None
        self._unweighed[stage] = None
        if not stage.members:
            self._unlist(stage)

    def _settle_weights(self) -> None:
        """Find height and class of the stages, and of what they read, as far as anything changes."""
        while self._unweighed:
            unweighed, self._unweighed = self._unweighed, {}
            for stage in unweighed:
                self._unweighed.pop(stage, None)
                if stage.members:
                    self._weigh(stage)

    def _weigh(self, stage: Stage) -> None:
        height, is_urgent = self._height(stage), stage.num_urgent > 0 or self._is_wanted_soon(stage)
        if height != stage.height:
            self._set_height(stage, height)
        if is_urgent != stage.is_urgent:
            stage.is_urgent = is_urgent
            for feeder in stage.feeders:
                feeder.num_urgent += 1 if is_urgent else -1
                self._unweighed[feeder] = None
            self._changed[stage] = None

    def _set_height(self, stage: Stage, height: int) -> None:
        has_grown = height > stage.height
        stage.height = height
        self._changed[stage] = None
        for feeder in stage.feeders:
            if not has_grown and feeder.tallest is stage:
                feeder.tallest = None
            elif has_grown and feeder.tallest is not None and height > feeder.tallest.height:
                feeder.tallest = stage
            self._unweighed[feeder] = None

    @staticmethod
    def _height(stage: Stage) -> int:
        if not stage.readers:
            return 0
        if stage.tallest is None:
            stage.tallest = max(stage.readers, key=lambda reader: reader.height)
        return min(stage.tallest.height + 1, MAX_HEIGHT)

    def _is_wanted_soon(self, stage: Stage) -> bool:
        return len(stage.members) == 1 and self._places[next(iter(stage.members))].is_wanted_soon

    def _make_stage(self) -> Stage:
        self._num_stages += 1
        return Stage(self._num_stages)

    def _producers(self, node: Node) -> Iterator[_Place]:
        return (self._places[read] for read in node.reads if read in self._places)

    # -- proof -------------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Prove that after `settle` the stages are as the rule says, and all indices agree; for tests."""
        assert not self._misplaced
        assert not self._unweighed
        assert {node.writes for node in self._graph.unfinished} == self._places.keys()
        stages = {place.stage: None for place in self._places.values()}
        readers_of: dict[tuple[Stage, ...], Stage] = {}
        for place in self._places.values():
            self._check_place(place, readers_of)
        for stage in stages:
            self._check_stage(stage)
        listed = {stage.signature: stage for stage in stages if stage.signature is not None}
        assert self._by_signature == listed

    def _check_place(self, place: _Place, readers_of: dict[tuple[Stage, ...], Stage]) -> None:
        stage = place.stage
        assert place.node.writes in stage.members
        counts: dict[Stage, int] = {}
        for consumer in self._graph.consumers(place.node.writes):
            reader = self._places[consumer.writes].stage
            counts[reader] = counts.get(reader, 0) + 1
        assert place.readers == counts
        if place.is_awaited:
            assert list(stage.members) == [place.node.writes]
            assert stage.signature is None
        else:
            key = tuple(sorted(counts, key=lambda reader: reader.number))
            assert readers_of.setdefault(key, stage) is stage, "two stages are read by the same stages"
            assert stage.signature == place.signature

    def _check_stage(self, stage: Stage) -> None:
        members = [self._places[variable] for variable in stage.members]
        assert all(member.stage is stage for member in members)
        assert all(member.readers.keys() == stage.readers.keys() for member in members)
        assert set(stage.readers.values()) <= {len(members)}
        assert all(stage in reader.feeders for reader in stage.readers)
        assert all(stage in feeder.readers for feeder in stage.feeders)
        assert stage.num_urgent == sum(reader.is_urgent for reader in stage.readers)
        assert stage.is_urgent == (stage.num_urgent > 0 or self._is_wanted_soon(stage))
        heights = [reader.height for reader in stage.readers]
        assert stage.height == min(max(heights, default=-1) + 1, MAX_HEIGHT)
        assert stage.tallest is None or stage.tallest.height == max(heights)
        signature = 0
        for reader in stage.readers:
            signature ^= reader.token
        assert all(member.signature == signature for member in members)
