"""Map-reduce over a list whose size nobody knew: an output is split, each item gets a prompt, one prompt reads all.

    parrot-mq run examples/map_reduce.py [ARTICLES...]

The tiny model of this repository plans a way through a store. With a model for prose: claims, checks, verdict.
"""

import asyncio
import sys
from typing import Annotated

from parrot_mq import Client, Input, Output, Separator, Split, semantic_function

ORDER = "order: 1207\ncustomer: Ada\narticles: {}\npayment: invoice"
STORE = "rope: cellar\ntent: attic\nlamp: hall\nstove: yard\nboots: garage\nmap: office"


@semantic_function
def list_articles(order: Input, articles: Output = Output(max_tokens=64, stop="\n", transform=Split(" "))) -> None:
    """Read the record and answer with the value only.

    Record:
    {{order}}

    Question: What is the articles?
    Answer: {{articles}}"""


@semantic_function
def find(article: Input, store: Input, place: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{store}}

    Question: What is the {{article}}?
    Answer: {{place}}"""


@semantic_function
def write_route(places: Annotated[Input, Separator(" ")], route: Output = Output(max_tokens=64, stop="\n")) -> None:
    """Write the text in upper case.
    Text: {{places}}
    Answer: {{route}}"""


async def main(ordered: list[str]) -> None:
    """Submit all three stages at once; the service splits the output and starts the map."""
    async with Client.connect() as client, client.session():
        articles = list_articles(order=ORDER.format(" ".join(ordered)))
        places = find.map(article=articles, store=STORE)
        route = write_route(places=places)
        print("articles:", *await articles)
        print("places:", *await places)
        print("route:", await route)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["rope", "tent", "boots", "lamp"]))
