"""Pictures and words for what happened to a session; `demo`, `explain` and `graph` show the same."""

from parrot_mq.cli.drawing.critical_path import find_critical_path
from parrot_mq.cli.drawing.svg import draw_svg
from parrot_mq.cli.drawing.terminal import draw_graph, draw_stages, draw_summary
from parrot_mq.cli.drawing.words import describe_session, explain_output

__all__ = [
    "describe_session",
    "draw_graph",
    "draw_stages",
    "draw_summary",
    "draw_svg",
    "explain_output",
    "find_critical_path",
]
