"""Chain summary: each part of a diary is read together with the digest of the parts before it.

    parrot-mq run examples/chain_summary.py [TEXTFILE]

The tiny model of this repository reads fields and compares numbers, so the digest is the highest camp so far. With a
model for prose (Qwen3-4B, say) a step is one prompt: "So far: {{digest}} Next: {{part}} Summary of both: {{summary}}".
"""

import asyncio
import sys
from pathlib import Path

from parrot_mq import Client, Input, Output, semantic_function

DIARY = Path(__file__).with_name("diary.txt")


@semantic_function
def read_altitude(day: Input, altitude: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{day}}

    Question: What is the altitude?
    Answer: {{altitude}}"""


@semantic_function
def higher(digest: Input, altitude: Input, new_digest: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Which number is larger?
    First: {{digest}}
    Second: {{altitude}}
    Answer: {{new_digest}}"""


async def main(diary: str) -> None:
    """Submit the whole chain at once, then print each digest as soon as it is there."""
    days = [part.strip() for part in diary.split("\n\n") if part.strip()]
    async with Client.connect() as client, client.session():
        digests = [read_altitude(day=days[0])]
        for day in days[1:]:
            digests.append(higher(digest=digests[-1], altitude=read_altitude(day=day)))
        for number, digest in enumerate(digests, start=1):
            print(f"day {number}: highest camp so far at {await digest} m")


if __name__ == "__main__":
    asyncio.run(main((Path(sys.argv[1]) if len(sys.argv) > 1 else DIARY).read_text()))
