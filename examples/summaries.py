"""Map-reduce summary of a text file, streamed as it is written. Needs a model that can summarise.

parrot-mq run --model FOLDER examples/summaries.py TEXTFILE
"""

import asyncio
import sys
from pathlib import Path

from parrot_mq import Client, Input, Output, semantic_function


@semantic_function
def summarise(passage: Input, summary: Output = Output(max_tokens=48, stop="\n")) -> None:
    """Summarise the passage in one sentence.

    Passage: {{passage}}
    Summary: {{summary}}"""


@semantic_function
def combine(parts: Input, whole: Output = Output(max_tokens=160, stop="\n\n")) -> None:
    """Combine the summaries into one paragraph.

    {{parts}}

    Paragraph: {{whole}}"""


async def main(text: str) -> None:
    """Summarise the paragraphs of a text one by one, then all together."""
    passages = [part.strip() for part in text.split("\n\n") if part.strip()]
    async with Client.connect() as client, client.session():
        parts = [summarise(passage=passage) for passage in passages]  # returns at once
        whole = combine(parts=parts)  # a list of variables fills one placeholder
        async for piece in whole.stream():
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_text()))
