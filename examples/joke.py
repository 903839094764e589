"""Several outputs in one prompt: each continues what the one before has written.

parrot-mq run --model FOLDER examples/joke.py parrots
"""

import asyncio
import sys

from parrot_mq import Client, Input, Output, semantic_function


@semantic_function
def tell(
    topic: Input,
    joke: Output = Output(max_tokens=64, stop="\n", temperature=0.8),
    explanation: Output = Output(max_tokens=64, stop="\n"),
) -> None:
    """Tell a joke about {{topic}}.
    Joke: {{joke}}
    Why it is funny: {{explanation}}"""


async def main(topic: str) -> None:
    """Tell a joke and explain it."""
    async with Client.connect() as client, client.session():
        joke, explanation = tell.outputs(topic=topic)
        print(await joke)
        print(await explanation)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
