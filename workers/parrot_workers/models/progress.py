"""How far the loading is, told to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from parrot_workers.models.extra import import_extra

__all__ = ["Report", "report_weights", "silent"]

Report: TypeAlias = Callable[[str, float], None]
"""Takes the stage and how much of it is done, from 0 to 1."""


def silent(stage: str, fraction: float) -> None:
    """Tell nobody."""


@contextmanager
def report_weights(report: Report) -> Iterator[None]:
    """Tell how many weights transformers has loaded: what it would show as a progress bar."""
    report("weights", 0.0)
    set_hook = getattr(import_extra("transformers.utils.logging"), "set_tqdm_hook", lambda hook: None)
    before = set_hook(lambda bar, args, kwargs: _ReportingBar(report, *args, **kwargs))
    try:
        yield
    finally:
        set_hook(before)
    report("weights", 1.0)


class _ReportingBar:
    """Stands in for a progress bar over a collection; of other bars nothing is told."""

    def __init__(self, report: Report, items: Any = None, **_: Any) -> None:
        self._report = report
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        total = len(self._items)
        for index, item in enumerate(self._items):
            yield item
            self._report("weights", (index + 1) / total)

    def __enter__(self) -> _ReportingBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None
