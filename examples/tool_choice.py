"""Tool choice: what the model writes decides which function runs next, and no client is asked.

    parrot-mq up
    parrot-mq native examples/tool_choice.py
    python examples/tool_choice.py [PRODUCT PRICE]

The tiny model of this repository looks the tool up in the rules of the shop; a model for prose (Qwen3-4B, say) would be
told what each tool does, and choose by itself.
"""

import asyncio
import sys

from parrot_mq import Client, Input, Output, native_function, select, semantic_function

RULES = "lamp: refund\ntent: mend\nrope: exchange\nboots: mend"
CLAIM = "customer: Ada\nproduct: {}\nprice: {}\nfault: broken"


@native_function
def refund(price: str) -> str:
    """What the customer is told if the price is paid back."""
    return f"you get {price} crowns back"


@native_function
def mend(price: str) -> str:
    """What the customer is told if the product is mended."""
    return f"mending it costs {int(price) // 10} crowns"


@native_function
def exchange(price: str) -> str:
    """What the customer is told if a new product is sent."""
    return f"a new one worth {price} crowns is on its way"


@semantic_function
def read(record: Input, field: Input, value: Output = Output(max_tokens=16, stop="\n")) -> None:
    """Read the record and answer with the value only.

    Record:
    {{record}}

    Question: What is the {{field}}?
    Answer: {{value}}"""


async def main(claim: str) -> None:
    """Submit the whole graph: two prompts find the tool, one finds its argument, then the tool runs."""
    async with Client.connect() as client, client.session():
        tool = read(record=RULES, field=read(record=claim, field="product"))
        told = select(tool, among=[refund, mend, exchange])(price=read(record=claim, field="price"))
        print(f"{await tool}: {await told}")


if __name__ == "__main__":
    asyncio.run(main(CLAIM.format(*(sys.argv[1:] or ["tent", "1200"]))))
