"""The graph of a session in a terminal: its stages with a mark for each output, what took how long, sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from parrot_mq.cli.drawing.critical_path import find_critical_path
from parrot_mq.cli.drawing.stages import Stage, find_stages, kind_of, short_group
from parrot_mq.cli.drawing.style import KINDS, LEGEND, MARKS
from parrot_mq.cli.drawing.times import Interval, measure_phases, session_interval, show_seconds
from parrot_mq.cli.drawing.words import describe_path, describe_session
from parrot_mq.messages import SessionStory, TaskStory

__all__ = ["draw_graph", "draw_stages", "draw_summary"]

MAX_MARKS = 200
"""A stage with more outputs is shown as numbers."""
MAX_ROWS = 16
NAME_WIDTH = 26
MIN_BAR = 10


def draw_graph(session: SessionStory) -> RenderableType:
    """All of it: the stages, when what ran, and the critical path."""
    if not session.stories:
        return Text("nothing is known of it", "dim")
    parts: list[RenderableType] = [Text(describe_session(session), "dim"), draw_stages(session), _Timeline(session)]
    if path := find_critical_path(session.stories):
        parts.append(Text.assemble(("critical path ", "bold magenta"), describe_path(path)))
    return Group(*parts)


# -- stages ----------------------------------------------------------------------------------------------------------


def draw_stages(session: SessionStory) -> RenderableType:
    """The graph as it is now: stages from top to bottom, what each one reads, and a mark for each output."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=NAME_WIDTH)
    table.add_column(overflow="fold", max_width=NAME_WIDTH)
    table.add_column(overflow="fold", ratio=1)
    for stage in find_stages(session.stories):
        table.add_row(
            Text(stage.name, "bold"), Text(_arrow(stage), "dim"), Text.assemble(_marks(stage), _groups(stage))
        )
    kinds = Text.assemble("colours: ", *((f"{style.label}  ", style.terminal) for style in KINDS.values()))
    legend = Text.assemble((LEGEND, "dim"), "\n", kinds)
    return Panel(Group(table, legend), title="the graph", title_align="left", border_style="dim")


def _arrow(stage: Stage) -> str:
    names = ["itself" if name == stage.name else name for name in stage.sources]
    return f"← {', '.join(names)}" if names else ""


def _marks(stage: Stage) -> Text:
    if len(stage.stories) <= MAX_MARKS:
        return Text.assemble(*((MARKS[story.state][0], _colour(story)) for story in stage.stories))
    states: Counter[str] = Counter(story.state for story in stage.stories)
    return Text("  ".join(f"{mark} {states[state]:,}" for state, (mark, _) in MARKS.items() if states[state]))


def _groups(stage: Stage) -> Text:
    groups = Counter(story.group for story in stage.stories if story.group)
    if not groups:
        return Text()
    if len(groups) > 2:
        return Text(f"  {len(groups):,} groups", "dim")
    return Text("  group " + ", ".join(f"{short_group(name)} ({num:,})" for name, num in groups.items()), "dim")


def _colour(story: TaskStory) -> str:
    if story.state == "failed":
        return "bold red"
    return KINDS[kind_of(story)].terminal


# -- when what ran ---------------------------------------------------------------------------------------------------


class _Timeline:
    """A bar for each output, or for those on the critical path if there are many; as wide as the terminal."""

    def __init__(self, session: SessionStory) -> None:
        self._session = session

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        session = self._session
        span = session_interval(session.stories, session.at)
        if span is None or span.duration_s <= 0:
            return
        path = {story.variable for story in find_critical_path(session.stories)}
        rows, num_left_out = _choose_rows(session.stories, path)
        names = min(max((len(story.variable or story.task) for story in rows), default=0), NAME_WIDTH)
        width = max(options.max_width - names - 14, MIN_BAR)
        for story in rows:
            name = (story.variable or story.task)[:names].ljust(names)
            is_critical = story.variable in path
            took = _took(story, session.at)
            yield Text.assemble(
                (f"{'▸' if is_critical else ' '} ", "bold magenta"),
                (f"{name}  ", "bold magenta" if is_critical else "bold"),
                _bar(story, session.at, span, width),
                f" {took:>8}",
                no_wrap=True,
            )
        if num_left_out:
            yield Text(f"  … {num_left_out:,} more", "dim")
        yield Text("  ░ waits for a worker   ▒ prompt   █ output   ▸ critical path", "dim")


def _choose_rows(stories: Sequence[TaskStory], path: set[str]) -> tuple[list[TaskStory], int]:
    if len(stories) <= MAX_ROWS:
        return list(stories), 0
    rows = [story for story in stories if story.variable in path]
    if len(rows) > MAX_ROWS:
        rows = rows[: MAX_ROWS // 2] + rows[-MAX_ROWS // 2 :]
    return rows, len(stories) - len(rows)


def _bar(story: TaskStory, now: float, span: Interval, width: int) -> Text:
    cells = [" "] * width
    phases = measure_phases(story, now)
    for mark, part in (("░", phases.queue), ("▒", phases.prompt), ("█", phases.output)):
        if part is None:
            continue
        begin = int(width * (part.begin - span.begin) / span.duration_s)
        end = int(width * (part.end - span.begin) / span.duration_s)
        for cell in range(max(min(begin, width - 1), 0), max(min(end, width), begin + 1)):
            if cell < width:
                cells[cell] = mark
    return Text("".join(cells), _colour(story))


def _took(story: TaskStory, now: float) -> str:
    phases = measure_phases(story, now)
    parts = [part for part in (phases.queue, phases.prompt, phases.output) if part is not None]
    return show_seconds(parts[-1].end - parts[0].begin) if parts else ""


# -- sums ------------------------------------------------------------------------------------------------------------


def draw_summary(session: SessionStory) -> RenderableType:
    """What the server did, by stage and over all."""
    table = Table("stage", title="\nwhat the server did", title_justify="left", title_style="bold", box=None)
    for heading in ("tasks", "batches", "prompt tokens", "shared", "generated", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in find_stages(session.stories):
        table.add_row(*_sums(stage.name, stage.stories, session.at))
    table.add_row(*_sums("all", session.stories, session.at), style="bold")
    return table


def _sums(name: str, stories: Sequence[TaskStory], now: float) -> list[str]:
    usages = [story.usage for story in stories if story.usage is not None]
    num_prompt = sum(usage.num_prompt_tokens for usage in usages)
    num_shared = sum(usage.num_shared_tokens for usage in usages)
    share = num_shared / num_prompt if num_prompt else 0.0
    begin = min((story.ready_at for story in stories if story.ready_at), default=0.0)
    end = max((story.finished_at or now for story in stories if story.ready_at), default=0.0)
    return [
        name,
        str(len(stories)),
        str(len({story.batch for story in stories if story.batch})),
        f"{num_prompt:,}",
        f"{num_shared:,} ({share:.0%})",
        f"{sum(usage.num_output_tokens for usage in usages):,}",
        f"{max(end - begin, 0.0):.2f} s",
    ]
