"""From stories to the boxes and arrows of a picture: one box for each output, or for many that are alike. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from parrot_mq.cli.drawing.critical_path import find_critical_path
from parrot_mq.messages import TaskStory

__all__ = ["Arrow", "Box", "Picture", "Stage", "draw_boxes", "find_stages", "kind_of", "short_group", "stage_of"]

MAX_BOXES = 40
MAX_LAYERS = 12
MAX_IN_LAYER = 10
MIN_FOLDED = 4
"""Fewer outputs that are alike are not folded in the first step."""
OTHERS = "…"

_NUMBER = re.compile(r"[-_]?\d+$")


@dataclass(frozen=True, slots=True)
class Box:
    """What is drawn as one: an output, or several that are alike.

    Attributes:
        stage: What they are called together.
        stories: The outputs, in the order of submission.
        layer: Boxes that have to be drawn before it on the longest way to it.
        group: Their node group, if they have one in common.
        num_groups: Node groups that they belong to.
        critical: Its outputs on the critical path.
        num_inner: Reads among its own outputs: a loop of the program.
    """

    stage: str
    stories: tuple[TaskStory, ...]
    layer: int
    group: str
    num_groups: int = 0
    critical: tuple[str, ...] = ()
    num_inner: int = 0

    @property
    def is_critical(self) -> bool:
        """Whether the critical path goes through it."""
        return bool(self.critical)


@dataclass(frozen=True, slots=True)
class Arrow:
    """Outputs of one box (by index) read outputs of another.

    Attributes:
        num: How many reads it stands for; 0 if the program waited for the one before it submitted the other.
        is_critical: Whether the critical path goes along it.
    """

    source: int
    target: int
    num: int
    is_critical: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be drawn.

    Attributes:
        path: The critical path.
    """

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    path: tuple[TaskStory, ...]

    @property
    def num_layers(self) -> int:
        return max((box.layer for box in self.boxes), default=-1) + 1


@dataclass(frozen=True, slots=True)
class Stage:
    """The outputs of one semantic function, and the stages that they read from."""

    name: str
    stories: tuple[TaskStory, ...]
    sources: tuple[str, ...]


def stage_of(story: TaskStory) -> str:
    """The semantic function; for other tasks the name of the variable without its number."""
    return story.function or _NUMBER.sub("", story.variable) or story.variable or story.task


def kind_of(story: TaskStory) -> str:
    """`latency` or `throughput`; empty as long as nothing was deduced."""
    return story.objective.kind if story.objective is not None else ""


def short_group(group: str) -> str:
    """The name of a node group without tenant and session."""
    return group.rpartition(".")[2]


def find_stages(stories: Sequence[TaskStory]) -> list[Stage]:
    """The outputs by stage, in the order of submission."""
    by_name = {story.variable: story for story in stories}
    members: dict[str, list[TaskStory]] = {}
    for story in stories:
        members.setdefault(stage_of(story), []).append(story)
    return [Stage(name, tuple(each), _sources(each, by_name)) for name, each in members.items()]


def _sources(stories: Sequence[TaskStory], by_name: Mapping[str, TaskStory]) -> tuple[str, ...]:
    names = (stage_of(by_name[name]) for story in stories for name in story.reads if name in by_name)
    return tuple(dict.fromkeys(names))


# -- boxes -----------------------------------------------------------------------------------------------------------


def draw_boxes(stories: Sequence[TaskStory]) -> Picture:
    """Each output is a box of its own if there is room for that; else those that are alike are one.

    First what is alike in one layer and group is folded, then what is alike in one layer, then what is alike at all,
    then the smallest boxes become one.
    """
    layers = _find_layers(stories)
    for find_key in (_one_each, _alike_in_group, _alike_in_layer, _alike):
        picture = _fold(stories, find_key(stories, layers))
        if _is_small(picture):
            return picture
    sizes = Counter(map(_alike_key, stories))
    kept = {key for key, _ in sizes.most_common(MAX_LAYERS - 1)}
    return _fold(stories, [key if (key := _alike_key(story)) in kept else OTHERS for story in stories])


def _is_small(picture: Picture) -> bool:
    in_layer = Counter(box.layer for box in picture.boxes)
    return (
        len(picture.boxes) <= MAX_BOXES
        and picture.num_layers <= MAX_LAYERS
        and max(in_layer.values(), default=0) <= MAX_IN_LAYER
    )


Keys = list[Hashable]


def _one_each(stories: Sequence[TaskStory], layers: Mapping[str, int]) -> Keys:
    return list(range(len(stories)))


def _alike_in_group(stories: Sequence[TaskStory], layers: Mapping[str, int]) -> Keys:
    return _fold_many([(layers.get(story.variable, 0), story.group, _alike_key(story)) for story in stories])


def _alike_in_layer(stories: Sequence[TaskStory], layers: Mapping[str, int]) -> Keys:
    return _fold_many([(layers.get(story.variable, 0), _alike_key(story)) for story in stories])


def _fold_many(keys: Keys) -> Keys:
    sizes = Counter(keys)
    return [key if sizes[key] >= MIN_FOLDED else index for index, key in enumerate(keys)]


def _alike(stories: Sequence[TaskStory], layers: Mapping[str, int]) -> Keys:
    return [_alike_key(story) for story in stories]


def _alike_key(story: TaskStory) -> tuple[str, str]:
    return stage_of(story), kind_of(story)


def _fold(stories: Sequence[TaskStory], keys: Keys) -> Picture:
    path = find_critical_path(stories)
    indices: dict[Hashable, int] = {}
    members: list[list[TaskStory]] = []
    box_of: dict[str, int] = {}
    for story, key in zip(stories, keys, strict=True):
        index = indices.setdefault(key, len(members))
        if index == len(members):
            members.append([])
        members[index].append(story)
        if story.variable:
            box_of[story.variable] = index
    reads = Counter(
        (box_of[name], box_of[story.variable])
        for story in stories
        for name in story.reads
        if name in box_of and story.variable in box_of
    )
    steps = {(box_of[a.variable], box_of[b.variable]) for a, b in pairwise(path)}
    on_path = {story.variable for story in path}
    pairs = [(source, target) for source, target in dict.fromkeys([*reads, *steps]) if source != target]
    layers = _layer(len(members), pairs)
    boxes = tuple(
        Box(
            stage=OTHERS if len({stage_of(story) for story in each}) > 1 else stage_of(each[0]),
            stories=tuple(each),
            layer=layers[index],
            group=each[0].group if len({story.group for story in each}) == 1 else "",
            num_groups=len({story.group for story in each if story.group}),
            critical=tuple(story.variable for story in each if story.variable in on_path),
            num_inner=reads[index, index],
        )
        for index, each in enumerate(members)
    )
    arrows = tuple(Arrow(*pair, reads[pair], pair in steps) for pair in pairs)
    return Picture(boxes, arrows, tuple(path))


def _find_layers(stories: Sequence[TaskStory]) -> dict[str, int]:
    index_of = {story.variable: index for index, story in enumerate(stories) if story.variable}
    pairs = [
        (index_of[name], index)
        for index, story in enumerate(stories)
        for name in story.reads
        if name in index_of and index_of[name] != index
    ]
    layers = _layer(len(stories), pairs)
    return {name: layers[index] for name, index in index_of.items()}


def _layer(num: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The longest way to each of `num` nodes. Folded stages may read each other in turn: the earliest goes first."""
    after: dict[int, list[int]] = defaultdict(list)
    missing = [0] * num
    for source, target in pairs:
        after[source].append(target)
        missing[target] += 1
    layers = [0] * num
    ready = deque(index for index in range(num) if not missing[index])
    is_done = [False] * num
    first_left = 0
    for _ in range(num):
        if not ready:
            while is_done[first_left]:
                first_left += 1
            ready.append(first_left)
        index = ready.popleft()
        is_done[index] = True
        for target in after[index]:
            missing[target] -= 1
            if not is_done[target]:
                layers[target] = max(layers[target], layers[index] + 1)
                if not missing[target]:
                    ready.append(target)
    return layers
