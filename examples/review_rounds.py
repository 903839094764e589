"""Multi-agent coding: an author writes a module, a reviewer compares it with the design, round after round.

    parrot-mq run examples/review_rounds.py [MAX_ROUNDS]

The tiny model of this repository reads and compares values, so the module has constants, and the reviewer says yes or
no to each. With a model for code (Qwen3-Coder, say) the same loop passes files and remarks.
"""

import asyncio
import sys
from typing import Annotated

from parrot_mq import Client, Input, Output, Separator, semantic_function

NAMES = ("port", "pool", "timeout", "retries")
DESIGN = "port: 9100\npool: 16\ntimeout: 300\nretries: 7\n"
LAST_RELEASE = "port: 8080\npool: 16\ntimeout: 30\nretries: 25\n"


@semantic_function
def read(text: Annotated[Input, Separator("")], name: Input, value: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{text}}
    Question: What is the {{name}}?
    Answer: {{value}}"""


@semantic_function
def is_same(first: Input, second: Input, verdict: Output = Output(max_tokens=4, stop="\n")) -> None:
    """Are the two values the same? Answer yes or no.
    First: {{first}}
    Second: {{second}}
    Answer: {{verdict}}"""


async def main(max_rounds: int) -> None:
    """Go on until the reviewer agrees, or the rounds are used up."""
    async with Client.connect() as client, client.session():
        values = {name: read(text=LAST_RELEASE, name=name) for name in NAMES}  # what the author remembers
        for number in range(1, max_rounds + 1):
            module = [part for name in NAMES for part in (f"{name} = ", values[name], "\n")]
            written = {name: read(text=module, name=name) for name in NAMES}  # the reviewer reads the module …
            wanted = {name: read(text=DESIGN, name=name) for name in NAMES}  # … and the design
            verdicts = {name: is_same(first=written[name], second=wanted[name]) for name in NAMES}
            wrong = [name for name in NAMES if await verdicts[name] != "yes"]
            print(f"# round {number}:", f"{wrong[0]} is wrong" if wrong else "approved")
            if not wrong:
                break
            values[wrong[0]] = read(text=DESIGN, name=wrong[0])  # the author looks it up, and writes it anew
        for name in NAMES:
            print(f"{name.upper()} = {await values[name]}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
