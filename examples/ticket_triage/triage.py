"""Support tickets are triaged: which team, and whether it is urgent. Runs on the tiny model of this repository.

Each in a terminal of its own; the publisher makes the streams, so it comes first:

parrot-mq up
python examples/ticket_triage/publisher.py
parrot-mq pipeline run examples/ticket_triage/triage.py:triage
"""

from parrot_mq import Input, Output, semantic_function
from parrot_mq.pipelines import Result, Source, pipeline


@semantic_function
def read_field(ticket: Input, field: Input, value: Output = Output(max_tokens=48, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{ticket}}

    Question: What is the {{field}}?
    Answer: {{value}}"""


@semantic_function
def larger(first: Input, second: Input, number: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Which number is larger?
    First: {{first}}
    Second: {{second}}
    Answer: {{number}}"""


@semantic_function
def upper_case(text: Input, capitals: Output = Output(max_tokens=64, stop="\n")) -> None:
    """Write the text in upper case.
    Text: {{text}}
    Answer: {{capitals}}"""


@pipeline(
    source=Source(stream="TICKETS", id="/id"),
    inputs={"ticket": "/text", "limit": "/limit"},
    result=Result(subject="tickets.triaged"),
)
async def triage(ticket: str, limit: str) -> dict[str, object]:
    """The team is the product in capitals; what costs more than the limit is urgent."""
    team = upper_case(text=read_field(ticket=ticket, field="product"))
    loss = read_field(ticket=ticket, field="loss")
    most = larger(first=loss, second=limit)
    return {"team": team, "loss": loss, "urgent": await most == await loss}
