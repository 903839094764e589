"""The chain of generations that decided when a program ended. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from parrot_mq.messages import TaskStory

__all__ = ["find_critical_path"]


def find_critical_path(stories: Sequence[TaskStory]) -> list[TaskStory]:
    """From what ended last back to what it waited for last, and so on; in the order of time.

    While nothing has ended it is empty. A generation that waited for no other one, because all that it read was set
    before it was submitted, is led back to what was set last of that: the program may have waited for it.
    """
    by_name = {story.variable: story for story in stories if story.variable and story.finished_at}
    path: list[TaskStory] = []
    seen: set[str] = set()
    step = max(by_name.values(), key=_end, default=None)
    while step is not None and step.variable not in seen:
        seen.add(step.variable)
        path.append(step)
        sources = [by_name[name] for name in step.reads if name in by_name]
        before = [source for source in sources if source.finished_at <= step.finished_at]
        step = max(before, key=_end, default=None)
    path.reverse()
    return path


def _end(story: TaskStory) -> float:
    return story.finished_at
