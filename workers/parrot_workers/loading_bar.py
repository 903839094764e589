"""How far a worker is with loading, as a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from parrot_mq.messages import LoadProgress

__all__ = ["loading_bar"]


@contextmanager
def loading_bar(console: Console | None = None) -> Iterator[Callable[[LoadProgress], None]]:
    """Show a bar during the block, on stderr if that is a terminal; log lines appear above it.

    Gives what to call with every progress; that may be called afterwards too, and shows nothing then.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        # Never quite full: a task that is complete stops its clock, and there may be another stage.
        yield lambda progress: bar.update(task, description=progress.stage, completed=min(progress.fraction, 0.999))
