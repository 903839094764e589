"""Where boxes, frames and arrows of a picture go: layers from left to right, node groups together. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from parrot_mq.cli.drawing.stages import Picture

__all__ = ["BOX_HEIGHT", "BOX_WIDTH", "Frame", "Layout", "arrange"]

BOX_WIDTH = 212
BOX_HEIGHT = 66
GAP_X = 76
GAP_Y = 16
FRAME = 10
"""Between a frame and the boxes in it."""
FRAME_TITLE = 16
SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """Around the boxes of a node group in one layer."""

    group: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Upper left corners of the boxes by index, the frames, and the size of it all."""

    corners: tuple[tuple[float, float], ...]
    frames: tuple[Frame, ...]
    width: float
    height: float


def arrange(picture: Picture) -> Layout:
    """Place everything; the upper left corner is the origin."""
    layers = _order(picture)
    heights = [_height(picture, layer) for layer in layers]
    whole = max(heights, default=0.0)
    corners: dict[int, tuple[float, float]] = {}
    frames: list[Frame] = []
    for number, (layer, height) in enumerate(zip(layers, heights, strict=True)):
        x, y = FRAME + number * (BOX_WIDTH + GAP_X), (whole - height) / 2
        for group, members in _by_group(picture, layer):
            top = y
            y += FRAME + FRAME_TITLE if group else 0
            for index in members:
                corners[index] = (x, y)
                y += BOX_HEIGHT + GAP_Y
            if group:
                y += FRAME - GAP_Y
                frames.append(Frame(group, x - FRAME, top, BOX_WIDTH + 2 * FRAME, y - top))
                y += GAP_Y
    width = len(layers) * (BOX_WIDTH + GAP_X) - GAP_X + 2 * FRAME
    return Layout(tuple(corners[index] for index in range(len(corners))), tuple(frames), max(width, 0), whole)


def _height(picture: Picture, layer: Sequence[int]) -> float:
    num_groups = sum(1 for group, _ in _by_group(picture, layer) if group)
    return len(layer) * (BOX_HEIGHT + GAP_Y) - GAP_Y + num_groups * (2 * FRAME + FRAME_TITLE)


def _by_group(picture: Picture, layer: Sequence[int]) -> list[tuple[str, list[int]]]:
    return [(group, list(each)) for group, each in groupby(layer, key=lambda index: picture.boxes[index].group)]


def _order(picture: Picture) -> list[list[int]]:
    """The boxes of each layer from top to bottom: near to what they are joined with, a group's together."""
    layers: list[list[int]] = [[] for _ in range(picture.num_layers)]
    for index, box in enumerate(picture.boxes):
        layers[box.layer].append(index)
    before, after = _neighbours(picture)
    for sweep in range(SWEEPS):
        place = {index: (at + 0.5) / len(layer) for layer in layers for at, index in enumerate(layer)}
        forward = sweep % 2 == 0
        for layer in layers if forward else reversed(layers):
            joined = before if forward else after
            ideal = {index: _mean([place[each] for each in joined[index]], place[index]) for index in layer}
            _sort_layer(picture, layer, ideal)
            place.update({index: (at + 0.5) / len(layer) for at, index in enumerate(layer)})
    return layers


def _sort_layer(picture: Picture, layer: list[int], ideal: Mapping[int, float]) -> None:
    members: dict[object, list[float]] = defaultdict(list)
    for index in layer:
        members[picture.boxes[index].group or index].append(ideal[index])
    of_group = {group: _mean(each, 0.0) for group, each in members.items()}
    layer.sort(key=lambda i: (of_group[picture.boxes[i].group or i], picture.boxes[i].group, ideal[i], i))


def _neighbours(picture: Picture) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    for arrow in picture.arrows:
        before[arrow.target].append(arrow.source)
        after[arrow.source].append(arrow.target)
    return before, after


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
