"""The picture of a running graph: a row for each stage, a mark for each output."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from parrot_mq.cli.demo.recorder import OutputRecord, Recorder

__all__ = ["draw_graph", "draw_summary"]

MARKS = {
    "submitted": ("·", "dim"),
    "ready": ("○", "yellow"),
    "assigned": ("◔", "cyan"),
    "started": ("◑", "cyan"),
    "finished": ("●", "green"),
    "failed": ("✗", "red"),
    "rejected": ("✗", "red"),
}
LEGEND = "· waits for inputs   ○ ready   ◔ assigned   ◑ runs   ● done   ✗ failed"


def draw_graph(recorder: Recorder) -> RenderableType:
    """The graph as it is now: stages from top to bottom, and what each one reads."""
    stages = recorder.stages()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, outputs in stages.items():
        marks = Text.assemble(*(MARKS[output.state] for output in outputs))
        sources = _sources(outputs, recorder)
        table.add_row(Text(name, "bold"), Text(f"← {', '.join(sources)}" if sources else "", "dim"), marks)
    return Panel(Group(table, Text(LEGEND, "dim")), title="the graph", title_align="left", border_style="dim")


def _sources(outputs: list[OutputRecord], recorder: Recorder) -> list[str]:
    names = (recorder.outputs[read].stage for output in outputs for read in output.reads if read in recorder.outputs)
    return list(dict.fromkeys(names))


def draw_summary(recorder: Recorder) -> RenderableType:
    """What the server did, by stage."""
    table = Table(
        "stage",
        title="\nwhat the server did",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    for heading in ("tasks", "batches", "prompt tokens", "shared", "generated", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in recorder.summaries():
        share = row.num_shared_tokens / row.num_prompt_tokens if row.num_prompt_tokens else 0.0
        table.add_row(
            row.stage,
            str(row.num_tasks),
            str(row.num_batches),
            f"{row.num_prompt_tokens:,}",
            f"{row.num_shared_tokens:,} ({share:.0%})",
            f"{row.num_output_tokens:,}",
            f"{row.duration_s:.2f} s",
            style="bold" if row.stage == "all" else "",
        )
    return table
