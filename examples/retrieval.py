"""Retrieval in two hops: a function of one's own finds documents, and the model writes what is looked for next.

    parrot-mq run examples/retrieval.py [MOUNTAIN]

Here `search` runs in this process; `parrot-mq native examples/retrieval.py` serves it from any other. The tiny model of
this repository answers with a value of a document; a model for prose (Qwen3-4B, say) would answer in a sentence.
"""

import asyncio
import sys

from parrot_mq import Client, Input, Output, native_function, semantic_function
from parrot_mq.native import NativeHost

DOCUMENTS = (
    "mountain: Elbrus\nheight: 5642\nrange: Caucasus\ncountry: Russia",
    "mountain: Aconcagua\nheight: 6961\nrange: Andes\ncountry: Argentina",
    "mountain: Kilimanjaro\nheight: 5895\nrange: East African Rift\ncountry: Tanzania",
    "mountain: Triglav\nheight: 2864\nrange: Julian Alps\ncountry: Slovenia",
    "country: Russia\ncapital: Moscow\ncurrency: rouble",
    "country: Argentina\ncapital: Buenos Aires\ncurrency: peso",
    "country: Tanzania\ncapital: Dodoma\ncurrency: shilling",
    "country: Slovenia\ncapital: Ljubljana\ncurrency: euro",
)


@native_function
def search(query: str) -> str:
    """The document that is about the words more than any other: a database or an index in real life."""
    words = set(query.split())
    return max(DOCUMENTS, key=lambda document: len(words & set(document.split())) / len(document.split()))


@semantic_function
def read(document: Input, field: Input, value: Output = Output(max_tokens=32, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{document}}

    Question: What is the {{field}}?
    Answer: {{value}}"""


async def main(mountain: str) -> None:
    """Submit the whole graph: search, read, search for what was read, read."""
    async with Client.connect() as client, NativeHost(client.bus, [search]), client.session():
        country = read(document=search(query=mountain), field="country")
        capital = read(document=search(query=country), field="capital")
        print(f"{mountain} is in {await country}, and the capital there is {await capital}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Elbrus"))
