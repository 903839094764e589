"""The graph of a session as SVG: a picture that stands for itself, for a browser, a page or a report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from parrot_mq.cli.drawing.layout import BOX_HEIGHT, BOX_WIDTH, Frame, Layout, arrange
from parrot_mq.cli.drawing.stages import OTHERS, Arrow, Box, Picture, draw_boxes, kind_of, short_group
from parrot_mq.cli.drawing.style import CRITICAL, FAILED, KINDS, MARKS
from parrot_mq.cli.drawing.times import Interval, Phases, measure_phases, session_interval, show_seconds
from parrot_mq.cli.drawing.words import describe_path, describe_session
from parrot_mq.messages import SessionStory, TaskStory

__all__ = ["draw_svg"]

MARGIN = 24
HEAD = 64
FOOT = 78
MIN_WIDTH = 900
CHARACTER = 6.9
"""Width of a character at 12 pixels, about."""
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
INK = "#0f172a"

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
GREY = "#64748b"


def draw_svg(session: SessionStory) -> str:
    """Draw what happened to a session, as it is now."""
    picture = draw_boxes(session.stories)
    layout = arrange(picture)
    span = session_interval(session.stories, session.at) or Interval(0.0, 0.0)
    width = max(layout.width, MIN_WIDTH) + 2 * MARGIN
    height = HEAD + layout.height + FOOT + 2 * MARGIN
    left = MARGIN + (width - 2 * MARGIN - layout.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{FONT}" font-size="12" fill="{INK}" xml:space="preserve">',
        f"<title>{_escape(session.session)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *_head(session, width),
        f'<g transform="translate({left:.1f} {HEAD + MARGIN})">',
        *(_frame(frame) for frame in layout.frames),
        *(_arrow(arrow, layout) for arrow in sorted(picture.arrows, key=lambda arrow: arrow.is_critical)),
        *(part for index, box in enumerate(picture.boxes) for part in _box(box, layout.corners[index], session, span)),
        "</g>",
        *_foot(picture, width, height),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# -- around the graph ------------------------------------------------------------------------------------------------


def _head(session: SessionStory, width: float) -> Iterator[str]:
    yield _text(MARGIN, 36, session.session, size=20, weight=600)
    yield _text(MARGIN, 60, _fit(describe_session(session), width - 2 * MARGIN), colour=GREY)


def _foot(picture: Picture, width: float, height: float) -> Iterator[str]:
    y = height - MARGIN
    if picture.path:
        sentence = f"critical path: {describe_path(picture.path)}"
        yield _text(MARGIN, y - 52, _fit(sentence, width - 2 * MARGIN), colour=CRITICAL, weight=600)
    yield f'<line x1="{MARGIN}" y1="{y - 38:.0f}" x2="{width - MARGIN:.0f}" y2="{y - 38:.0f}" stroke="#e2e8f0"/>'
    yield from _legend(y - 12)


def _legend(y: float) -> Iterator[str]:
    x: float = MARGIN
    for style in KINDS.values():
        shape = f'x="{x:.0f}" y="{y - 10:.0f}" width="14" height="12" rx="3"'
        yield f'<rect {shape} fill="{style.fill}" stroke="{style.line}"/>'
        yield _text(x + 20, y, style.label)
        x += 36 + CHARACTER * len(style.label)
    yield f'<rect x="{x}" y="{y - 10:.0f}" width="14" height="12" rx="3" fill="none" stroke="{GREY}" {_DASHED}/>'
    yield _text(x + 20, y, "node group")
    x += 36 + CHARACTER * len("node group")
    yield f'<line x1="{x}" y1="{y - 4:.0f}" x2="{x + 18}" y2="{y - 4:.0f}" stroke="{CRITICAL}" stroke-width="3"/>'
    yield _text(x + 24, y, "critical path")
    states = " · ".join(f"{mark} {words}" for mark, words in MARKS.values())
    bar = "bar: when, from the begin of the session to its end; pale while it waits for a worker"
    yield _text(MARGIN, y + 20, f"{states}    {bar}", colour=GREY, size=11)


_DASHED = 'stroke-dasharray="4 3"'


def _frame(frame: Frame) -> str:
    title = _text(
        frame.x + 8, frame.y + 15, _fit(f"group {short_group(frame.group)}", frame.width), size=11, colour=GREY
    )
    return (
        f'<rect x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}" rx="10" '
        f'fill="#f8fafc" stroke="{GREY}" {_DASHED}/>{title}'
    )


def _arrow(arrow: Arrow, layout: Layout) -> str:
    (x1, y1), (x2, y2) = layout.corners[arrow.source], layout.corners[arrow.target]
    x1, y1, y2 = x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2
    bend = max(abs(x2 - x1) / 2, 30)
    colour, weight = (CRITICAL, 3.0) if arrow.is_critical else ("#94a3b8", 1.3)
    path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend - 6:.1f} {y2:.1f} {x2 - 6:.1f} {y2:.1f}"
    head = f"M{x2 - 8:.1f} {y2 - 4:.1f}L{x2:.1f} {y2:.1f}L{x2 - 8:.1f} {y2 + 4:.1f}Z"
    label = "program" if not arrow.num else f"{arrow.num:,}" if arrow.num > 1 else ""
    text = _text((x1 + x2) / 2, (y1 + y2) / 2 - 5, label, size=11, colour=GREY, anchor="middle") if label else ""
    dashed = "" if arrow.num else f" {_DASHED}"
    line = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{weight}"{dashed}/>'
    return f'{line}<path d="{head}" fill="{colour}"/>{text}'


# -- boxes -----------------------------------------------------------------------------------------------------------


def _box(box: Box, corner: tuple[float, float], session: SessionStory, span: Interval) -> Iterator[str]:
    x, y = corner
    style = KINDS[_common_kind(box)]
    has_failed = any(story.state == "failed" for story in box.stories)
    is_open = all(story.state in ("waiting", "ready") for story in box.stories)
    line, weight = (CRITICAL, 3.0) if box.is_critical else (FAILED if has_failed else style.line, 1.5)
    phases = [measure_phases(story, session.at) for story in box.stories]
    shape = f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"'
    yield f'<g transform="translate({x:.1f} {y:.1f})"><title>{_escape(_details(box, phases))}</title>'
    if len(box.stories) > 1:
        yield f'<rect x="5" y="-5" {shape} fill="{style.fill}" stroke="{style.line}" stroke-width="1"/>'
    dashed = f" {_DASHED}" if is_open else ""
    yield f'<rect {shape} fill="{style.fill}" stroke="{line}" stroke-width="{weight}"{dashed}/>'
    title, subtitle = _titles(box)
    yield _text(10, 19, _fit(title, BOX_WIDTH - 16), weight=600)
    yield _text(10, 34, _fit(subtitle, BOX_WIDTH - 16, 11), size=11, colour=FAILED if has_failed else GREY)
    yield _text(10, 49, _fit(_timing(phases), BOX_WIDTH - 16, 11), size=11)
    yield from _bar(phases, span, style.line, style.pale)
    yield "</g>"


def _common_kind(box: Box) -> str:
    kinds = {kind_of(story) for story in box.stories}
    return kinds.pop() if len(kinds) == 1 else ""


def _titles(box: Box) -> tuple[str, str]:
    if len(box.stories) == 1:
        (story,) = box.stories
        mark, words = MARKS[story.state]
        error = f": {story.error.code}" if story.error is not None else ""
        function = f"{story.function}, " if story.function else ""
        return story.variable or story.task, f"{mark} {function}{words}{error}"
    states: Counter[str] = Counter(story.state for story in box.stories)
    marks = "  ".join(f"{mark} {states[state]:,}" for state, (mark, _) in MARKS.items() if states[state])
    loop = "  ↻" if box.num_inner else ""
    name = "others" if box.stage == OTHERS else box.stage
    slowest = f"  last: {box.critical[0]}" if len(box.critical) == 1 else ""
    groups = f"  {box.num_groups:,} groups" if box.num_groups > 1 else ""
    return f"{name} × {len(box.stories):,}", f"{marks}{loop}{groups}{slowest}"


def _timing(phases: list[Phases]) -> str:
    """How long it waited and ran; of many the longest."""
    queue = [each.queue.duration_s for each in phases if each.queue is not None]
    run = [_run_s(each) for each in phases if each.prompt is not None or each.output is not None]
    most = "≤" if len(phases) > 1 else ""
    parts = [f"waited {most}{show_seconds(max(queue))}"] if queue else []
    parts += [f"ran {most}{show_seconds(max(run))}"] if run else []
    return ", ".join(parts)


def _run_s(phases: Phases) -> float:
    return sum(each.duration_s for each in (phases.prompt, phases.output) if each is not None)


def _bar(phases: list[Phases], span: Interval, dark: str, pale: str) -> Iterator[str]:
    """When it waited for a worker and ran, on the scale of the session."""
    width = BOX_WIDTH - 20
    yield f'<rect x="10" y="56" width="{width}" height="4" rx="2" fill="#e2e8f0"/>'
    if span.duration_s <= 0:
        return
    for colour, intervals in ((pale, [each.queue for each in phases]), (dark, [_running(each) for each in phases])):
        for begin, end in _merge([each for each in intervals if each is not None]):
            x = 10 + width * (begin - span.begin) / span.duration_s
            length = max(width * (end - begin) / span.duration_s, 1.0)
            yield f'<rect x="{x:.1f}" y="56" width="{length:.1f}" height="4" fill="{colour}"/>'


def _running(phases: Phases) -> Interval | None:
    parts = [each for each in (phases.prompt, phases.output) if each is not None]
    return Interval(parts[0].begin, parts[-1].end) if parts else None


def _merge(intervals: list[Interval]) -> list[Interval]:
    """The same times without overlaps."""
    merged: list[Interval] = []
    for each in sorted(intervals):
        if merged and each.begin <= merged[-1].end:
            merged[-1] = Interval(merged[-1].begin, max(merged[-1].end, each.end))
        else:
            merged.append(each)
    return merged


def _details(box: Box, phases: list[Phases]) -> str:
    """What a browser shows under the pointer."""
    return "\n".join(_detail(story, each) for story, each in list(zip(box.stories, phases, strict=True))[:20])


def _detail(story: TaskStory, phases: Phases) -> str:
    parts = [story.variable or story.task, story.state, _timing([phases]), story.worker, story.reason]
    if story.usage is not None:
        parts.append(f"{story.usage.num_shared_tokens:,} of {story.usage.num_prompt_tokens:,} prompt tokens shared")
        parts.append(f"{story.usage.num_output_tokens:,} generated")
    return " · ".join(part for part in parts if part)


# -- letters ---------------------------------------------------------------------------------------------------------


def _text(
    x: float, y: float, text: str, *, size: int = 12, weight: int = 400, colour: str = INK, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f"text-anchor={quoteattr(anchor)}>{_escape(text)}</text>"
    )


def _fit(text: str, width: float, size: int = 12) -> str:
    """As much as fits into a width; the beginning and the end of a name tell most."""
    room = max(int(width * 12 / size / CHARACTER), 4)
    if len(text) <= room:
        return text
    return f"{text[: room * 2 // 3]}…{text[-(room - room * 2 // 3 - 1) :]}"


def _escape(text: str) -> str:
    """The text in XML, without the characters that XML cannot say."""
    return escape(_NOT_XML.sub("", text))
