"""The applications of the paper, with its lengths. Where a length is a reconstruction, the comment says from what."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.workloads.programs import Call, Part, Program, Read, Text

__all__ = [
    "DOCUMENT_TOKENS",
    "GPT_APPS",
    "REAL_CHUNK_TOKENS",
    "background",
    "chain_summary",
    "chats",
    "gpts",
    "map_reduce_summary",
    "multi_agent",
]

REAL_CHUNK_TOKENS = {512: 190, 1024: 375, 1536: 560, 2048: 750}
"""The paper's chunk sizes are nominal: its splitter counts about three tokens too many for each word."""

DOCUMENT_TOKENS = (16_000, 20_000, 25_000, 27_000, 37_000)
"""Five documents; the paper's ten are 16,000 to 37,000 tokens, 25,000 in the mean."""


# -- data analytics on long documents (paper 8.2, figures 11 to 14) ---------------------------------------------------


def chain_summary(
    name: str, *, document_tokens: int, chunk: int, output_tokens: int, is_text_first: bool = False
) -> Program:
    """Refine a summary chunk by chunk: each call reads the one before it.

    Args:
        document_tokens: Of the whole document.
        chunk: Nominal tokens of a chunk.
        is_text_first: Whether the new text stands before the summary so far, as in the example of the authors'
            repository; in their benchmark it stands after it.
    """
    chunk_tokens = REAL_CHUNK_TOKENS[chunk]
    num_chunks = -(-document_tokens // chunk_tokens)
    texts = [Text(f"{name}/chunk-{index}", chunk_tokens, is_input=True) for index in range(num_chunks)]
    first = (Text("refine-first", 20), texts[0], Text("refine-answer", 6))
    calls = [Call("summary-0", first, output_tokens)]
    for index, text in enumerate(texts[1:], 1):
        # 90 tokens of instructions: the length of the benchmark's template.
        middle: tuple[Part, ...] = (Read(f"summary-{index - 1}"), Text("refine-middle", 30), text)
        if is_text_first:
            middle = (text, Text("refine-middle", 30), Read(f"summary-{index - 1}"))
        prompt = (Text("refine-begin", 25), *middle, Text("refine-end", 35))
        calls.append(Call(f"summary-{index}", prompt, output_tokens))
    return Program(name, "chain", tuple(calls))


def background(rate: float, *, duration_s: float, seed: int) -> list[Program]:
    """Single requests of 512 equal tokens and 50 new ones, at random times, until somebody else is done."""
    rng = random.Random(seed)
    programs: list[Program] = []
    at_s = rng.expovariate(rate) if rate else duration_s
    while at_s < duration_s:
        call = Call("answer", (Text("test-prompt", 512),), 50)
        programs.append(Program(f"background-{len(programs)}", "background", (call,), at_s, is_background=True))
        at_s += rng.expovariate(rate)
    return programs


def map_reduce_summary(
    name: str, *, document_tokens: int, chunk: int, output_tokens: int, arrival_s: float = 0.0
) -> Program:
    """Summarise all chunks, then the summaries."""
    chunk_tokens = REAL_CHUNK_TOKENS[chunk]
    num_chunks = -(-document_tokens // chunk_tokens)
    calls = [
        Call(
            f"summary-{index}",
            (Text("map-begin", 17), Text(f"{name}/chunk-{index}", chunk_tokens, is_input=True), Text("map-end", 8)),
            output_tokens,
        )
        for index in range(num_chunks)
    ]
    summaries = tuple(Read(call.output) for call in calls)
    reduce = Call("whole", (Text("reduce-begin", 17), *summaries, Text("reduce-end", 8)), output_tokens)
    return Program(name, "map-reduce", (*calls, reduce), arrival_s)


# -- popular applications with long system prompts (8.3, figure 17) ---------------------------------------------------

GPT_APPS = {
    "productivity": (7437, 7, 704),
    "image": (1116, 8, 89),
    "programming": (1694, 4, 631),
    "data analysis": (2031, 4, 416),
}
"""Tokens of system prompt, query and answer of the four most popular applications."""


def gpts(rate: float, *, num_requests: int, seed: int) -> list[Program]:
    """Requests to the four applications, each as likely, at random times (Poisson)."""
    rng = random.Random(seed)
    programs = []
    at_s = 0.0
    for index in range(num_requests):
        at_s += rng.expovariate(rate)
        app = rng.choice(list(GPT_APPS))
        system, query, answer = GPT_APPS[app]
        question = Text(f"query-{index}", query, is_input=True)
        call = Call("answer", (Text(f"gpts/{app}", system), question), answer)
        programs.append(Program(f"gpts-{index}", "gpts", (call,), at_s))
    return programs


# -- multi-agent programming (8.4, figure 18) -------------------------------------------------------------------------

# The artifact replays a log of eight files: rounds of F calls whose prompts are alike but for the last 2 to 3 %, and as
# long whatever F is. What the common part is made of is our reconstruction: it reads the outputs of the round before
# (of the first eight files), and a constant fills it up. Lengths are those of the log, GPT-4 tokens times 1.25.
_ARCHITECT = (230, 885)
_CODER = (3_690, 60, (245, 300, 350, 400, 430, 450, 560, 1030))
_REVIEWER = (4_770, 100, (300, 330, 360, 390, 410, 440, 470, 510))
_REVISER = (5_350, 150, (215, 300, 380, 450, 500, 560, 660, 795))
_NUM_LOGGED = 8


def multi_agent(num_files: int, *, num_reviews: int = 4) -> Program:
    """An architect, a coder for each file, then a reviewer and a reviser for each file, `num_reviews` times."""
    prompt, output = _ARCHITECT
    calls = [Call("design", (Text("agents/architect", prompt),), output)]
    before = _round(calls, "code", ("design",), _CODER, num_files)
    for index in range(num_reviews):
        reviews = _round(calls, f"review-{index}", before, _REVIEWER, num_files)
        before = _round(calls, f"revision-{index}", reviews, _REVISER, num_files)
    return Program(f"agents-{num_files}", "multi-agent", tuple(calls))


def _round(
    calls: list[Call], name: str, reads: Sequence[str], lengths: tuple[int, int, tuple[int, ...]], num_files: int
) -> tuple[str, ...]:
    """Append one call for each file; returns what the next round reads."""
    num_common, num_own, outputs = lengths
    sizes = {call.output: call.num_output_tokens for call in calls}
    constant = Text(f"agents/{name.partition('-')[0]}", num_common - sum(sizes[read] for read in reads))
    common: tuple[Part, ...] = (constant, *(Read(read) for read in reads))
    for index in range(num_files):
        own = Text(f"agents/{name.partition('-')[0]}/file-{index}", num_own, is_input=True)
        calls.append(Call(f"{name}-{index}", (*common, own), outputs[index % _NUM_LOGGED]))
    return tuple(f"{name}-{index}" for index in range(min(num_files, _NUM_LOGGED)))


# -- chats next to map-reduce (8.5, figure 19) ------------------------------------------------------------------------


CHAT_TPOT_MS = 50.0
"""What the programs of the chats ask for: 20 tokens a second. An engine that does nothing else takes 28 ms."""


def chats(num_chats: int, *, rate: float, seed: int) -> list[Program]:
    """Single chat turns at regular times, with lengths like those of ShareGPT.

    The paper draws from the data set what has a prompt of at most 1,024 tokens and 2,048 in all. We draw from
    log-normal distributions with the same bounds (medians 60 and 200 tokens, means about 160 and 270).
    """
    rng = random.Random(seed)
    programs: list[Program] = []
    while len(programs) < num_chats:
        prompt = round(rng.lognormvariate(4.1, 1.4))
        answer = round(rng.lognormvariate(5.3, 0.9))
        if not (4 <= prompt <= 1024 and answer >= 4 and prompt + answer <= 2048):
            continue
        index = len(programs)
        call = Call("answer", (Text(f"chat-{index}", prompt, is_input=True),), answer, tpot_ms=CHAT_TPOT_MS)
        programs.append(Program(f"chat-{index}", "chat", (call,), index / rate))
    return programs
