"""The chain of generations that decided when a program ended. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from parrot_mq.messages import TaskStory

__all__ = ["find_critical_path"]


def find_critical_path(stories: Sequence[TaskStory]) -> list[TaskStory]:
    """From what ended last back to what it waited for last, and so on; in the order of time. Empty if nothing ended.

    A generation whose inputs were all set when it was submitted waited for the program: it is led back to what had
    ended last by then, whether it reads that or not. Programs wait for answers before they decide what to ask next.
    """
    ended = sorted((story for story in stories if story.variable and story.finished_at), key=_end)
    by_name = {story.variable: story for story in ended}
    path: list[TaskStory] = []
    seen: set[str] = set()
    step = ended[-1] if ended else None
    while step is not None and step.variable not in seen:
        seen.add(step.variable)
        path.append(step)
        step = _before(step, by_name, ended)
    path.reverse()
    return path


def _before(step: TaskStory, by_name: dict[str, TaskStory], ended: Sequence[TaskStory]) -> TaskStory | None:
    sources = [by_name[name] for name in step.reads if name in by_name]
    last = max((source for source in sources if _end(source) <= _end(step)), key=_end, default=None)
    if last is not None and _end(last) > step.submitted_at:
        return last
    index = bisect_right(ended, min(step.submitted_at, _end(step)), key=_end) - 1
    return ended[index] if index >= 0 else last


def _end(story: TaskStory) -> float:
    return story.finished_at
