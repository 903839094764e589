"""Chat: three users talk to one assistant at the same time; its system prompt is computed once for all of them.

    parrot-mq run examples/chat.py

The system prompt says what the assistant knows, and the tiny model of this repository answers with a value of it. With
a model for prose (Qwen3-4B, say) it has a role and a tone as well, and the program stays as it is.
"""

import asyncio

from parrot_mq import Client, Input, Output, Session, semantic_function

USERS = {
    "Ada": ["phone", "street", "owner"],
    "Bob": ["closing time", "phone", "street"],
    "Eve": ["owner", "shop", "phone"],
}


@semantic_function
def reply(talk: Input, field: Input, answer: Output = Output(max_tokens=32, stop="\n")) -> None:
    """Answer with the value only.

    Record:
    shop: Polly and Sons
    owner: Berta Lindqvist
    opens at: 0930
    closing time: 1845
    street: Harbour Lane 12
    phone: 4471902

    {{talk}}Question: What is the {{field}}?
    Answer: {{answer}}"""


async def chat(session: Session, fields: list[str]) -> tuple[str, int, int]:
    """All turns of a user; returns what was said, the tokens of all prompts, and how many of them were computed."""
    talk, num_tokens, num_computed = "", 0, 0
    for field in fields:
        answer = reply(talk=talk, field=field)  # the prompt begins with all that was said
        talk += f"Question: What is the {field}?\nAnswer: {await answer}\n"
        usage = await session.usage(answer)
        num_tokens += usage.num_prompt_tokens
        num_computed += usage.num_prompt_tokens - usage.num_shared_tokens
    return talk, num_tokens, num_computed


async def main() -> None:
    """Let the users talk side by side, then print what each said, and what it cost."""
    async with Client.connect() as client, client.session() as session:
        chats = await asyncio.gather(*(chat(session, fields) for fields in USERS.values()))
    for user, (talk, _, _) in zip(USERS, chats, strict=True):
        print(f"-- {user}\n{talk}", end="")
    print(f"-- {sum(chat[1] for chat in chats)} tokens in 9 prompts, {sum(chat[2] for chat in chats)} computed")


if __name__ == "__main__":
    asyncio.run(main())
