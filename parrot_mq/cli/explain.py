"""`parrot-mq explain`: what happened to each output of a session, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from parrot_mq.cli.drawing import describe_session, explain_output, find_critical_path
from parrot_mq.cli.drawing.stages import find_stages, kind_of, short_group
from parrot_mq.cli.drawing.style import KINDS, MARKS
from parrot_mq.cli.drawing.times import Interval, measure_phases, show_seconds
from parrot_mq.cli.drawing.words import DECISIONS
from parrot_mq.cli.live import keep_drawing
from parrot_mq.cli.options import Servers, Tenant
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stories import nothing_known, print_json, story_source
from parrot_mq.client.control import SessionControl
from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import SessionStory, TaskStory
from parrot_mq.observability import configure_logging

__all__ = ["choose", "draw_explanation", "explain"]

PIPE_WIDTH = 180
"""Columns where there is no terminal to ask."""
WIDE = 150
"""From so many columns on the table has all that is known."""
MAX_ROWS = 200
MAX_EXPLAINED = 12
"""So many outputs get sentences."""


def explain(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session.")],
    servers: Servers = "",
    tenant: Tenant = "default",
    variable: Annotated[str, typer.Option(help="Explain this output only.", show_default="all")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what the coordinator answers, for programs.")] = False,
    watch: Annotated[bool, typer.Option(help="Show it again and again until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of `--watch`.")] = 1.0,
) -> None:
    """Explain what happened to a session: why each output waited, why it ran where it ran, what was shared.

    A line for each output, then sentences about those that decided when the program ended, that came back from a worker
    or that failed, and about one of each other stage; `--variable` explains any other.

    - *class*: `latency` is wanted soon, `throughput` in the end; of a *group* what counts is when its last one ends.
    - *inputs*: time until all that it reads was set, and which one came last. *queue*: time until a worker had room.
    - *worker*: who ran it, and why this one: it `holds its prefix`, runs the `rest of its group`, …
    - *prompt*: tokens; of these *shared* ones that were not computed again, *ahead* ones that were computed for it
      while it still waited. *out*: tokens generated. *took*: on the worker. *at*: when it ended.

    The coordinator remembers the newest sessions, also closed ones, as long as it leads. `parrot-mq graph` draws them.

    Example: `parrot-mq explain demo --variable summary`
    """
    configure_logging("error")
    run_async(_explain(servers, tenant, session, variable, as_json=as_json, interval_s=interval if watch else None))


async def _explain(
    servers: str, tenant: str, session: str, variable: str, *, as_json: bool, interval_s: float | None
) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    async with story_source(servers, tenant, session, name="parrot-mq explain") as source:
        if interval_s is not None:
            await _watch(source, variable, console, interval_s)
            return
        story = await source.explain()
    if as_json:
        print_json(choose(story, variable) if variable else story)
    elif not story.stories:
        typer.secho(nothing_known(story), fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(1)
    else:
        console.print(draw_explanation(choose(story, variable), wide=console.width >= WIDE, whole=story))


async def _watch(source: SessionControl, variable: str, console: Console, interval_s: float) -> None:
    async def draw() -> RenderableType:
        story = await source.explain()
        return draw_explanation(_only(story, variable), wide=console.width >= WIDE, whole=story)

    await keep_drawing(console, interval_s, draw)


def choose(story: SessionStory, variable: str) -> SessionStory:
    """The story of one output; of all if none is named.

    Raises:
        ConfigurationError: It is not remembered; says what is.
    """
    chosen = _only(story, variable)
    if variable and not chosen.stories:
        known = [each.variable for each in story.stories[:MAX_EXPLAINED]]
        more = ", …" if len(story.stories) > len(known) else ""
        sentence = (
            f"no output {variable!r} of session {story.session!r} is remembered; there is: {', '.join(known)}{more}"
        )
        raise ConfigurationError(sentence)
    return chosen


def _only(story: SessionStory, variable: str) -> SessionStory:
    if not variable:
        return story
    return msgspec.structs.replace(story, stories=[each for each in story.stories if each.variable == variable])


# -- the picture -----------------------------------------------------------------------------------------------------


def draw_explanation(story: SessionStory, *, wide: bool, whole: SessionStory) -> RenderableType:
    """A table and sentences about the outputs in `story`; the sentence above is about the whole session."""
    return Group(
        Text.assemble((story.session, "bold"), "  ", (describe_session(whole), "dim")),
        Text(),
        _table(story, wide=wide),
        Text(),
        _sentences(story, whole),
    )


_NUMBERS = ("inputs", "queue", "prompt", "shared", "ahead", "out", "took", "at")
"""Columns with figures; they are never cut."""
_WIDE_COLUMNS: tuple[tuple[str, int], ...] = (
    ("output", 28),
    ("function", 20),
    ("class", 10),
    ("group", 20),
    ("inputs", 0),
    ("queue", 0),
    ("last input", 20),
    ("worker", 40),
    *((heading, 0) for heading in _NUMBERS[2:]),
)
"""Headings, and the most characters of a text below them."""
_NARROW_COLUMNS: tuple[tuple[str, int], ...] = (
    ("output", 20),
    ("class", 10),
    ("inputs", 0),
    ("queue", 0),
    ("worker", 9),
    ("shared", 0),
    ("out", 0),
    ("took", 0),
)


def _table(story: SessionStory, *, wide: bool) -> RenderableType:
    table = Table(header_style="bold", box=None, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for heading, width in _WIDE_COLUMNS if wide else _NARROW_COLUMNS:
        if heading in _NUMBERS:
            table.add_column(heading, justify="right", no_wrap=True)
        else:  # they give way where there is little room
            table.add_column(heading, overflow="ellipsis", max_width=width)
    begin = min((each.submitted_at for each in story.stories if each.submitted_at), default=0.0)
    for each in story.stories[-MAX_ROWS:]:
        table.add_row(*_cells(each, story.at, begin, wide=wide))
    if (num_more := len(story.stories) - MAX_ROWS) > 0:
        return Group(Text(f"{num_more:,} older outputs are left out; --json has them all", "dim"), table)
    return table


def _cells(story: TaskStory, now: float, begin: float, *, wide: bool) -> list[Text | str]:
    mark, _ = MARKS[story.state]
    kind = kind_of(story)
    phases = measure_phases(story, now)
    run = [part.duration_s for part in (phases.prompt, phases.output) if part is not None]
    usage = story.usage
    cells: list[Text | str] = [
        Text(mark, "red" if story.state == "failed" else KINDS[kind].terminal),
        Text(story.variable or story.task, "bold"),
    ]
    cells += [story.function, kind, short_group(story.group)] if wide else [kind]
    cells += [_took(phases.inputs if story.reads else None), _took(phases.queue)]
    cells += [story.last_input] if wide else []
    why = DECISIONS[story.decision]
    cells.append(f"{story.worker}: {why}" if wide and why and story.worker else story.worker)
    if wide:
        cells.append(f"{usage.num_prompt_tokens:,}" if usage is not None else "")
    cells.append(_share(usage.num_shared_tokens, usage.num_prompt_tokens) if usage is not None else "")
    if wide:
        cells.append(_share(usage.num_prefilled_tokens, usage.num_prompt_tokens) if usage is not None else "")
    cells += [f"{usage.num_output_tokens:,}" if usage is not None else "", show_seconds(sum(run)) if run else ""]
    if wide:
        cells.append(f"+{show_seconds(max(story.finished_at - begin, 0.0))}" if story.finished_at and begin else "")
    return cells


def _took(interval: Interval | None) -> str:
    return show_seconds(interval.duration_s) if interval is not None else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole and part else "-"


# -- sentences -------------------------------------------------------------------------------------------------------


def _sentences(story: SessionStory, whole: SessionStory) -> RenderableType:
    chosen = _worth_explaining(story.stories, whole)
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold", overflow="ellipsis", no_wrap=True, max_width=28)
    lines.add_column(overflow="fold")
    for each in chosen:
        lines.add_row(each.variable or each.task, " ".join(explain_output(each, story.at)))
    if (num_more := len(story.stories) - len(chosen)) > 0:
        others = "the other one" if num_more == 1 else f"any of the {num_more:,} others"
        return Group(lines, Text(f"--variable NAME explains {others}", "dim"))
    return lines


def _worth_explaining(stories: Sequence[TaskStory], whole: SessionStory) -> list[TaskStory]:
    """What failed, came back, or decided when the program ended, and one of each other stage; the newest of these."""
    path = {each.variable for each in find_critical_path(whole.stories)}
    chosen = {id(each) for each in stories if each.state == "failed" or each.lost or each.variable in path}
    for stage in find_stages(stories):
        if not any(id(each) in chosen for each in stage.stories):
            chosen.add(id(max(stage.stories, key=lambda each: each.finished_at)))
    return [each for each in stories if id(each) in chosen][-MAX_EXPLAINED:]
