"""What goes to whoever serves a native function, and what comes back: sizes kept, answers checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from parrot_mq.bus import Delivery
from parrot_mq.coordinator.calls.attempts import Setback, SetbackKind
from parrot_mq.coordinator.sessions.ready import Known, ReadyCall
from parrot_mq.errors import CapacityExhausted, CodecError, FunctionFailed, ParrotError
from parrot_mq.messages import (
    CONTENT_JSON,
    HEADER_BLOB,
    HEADER_CONTENT_TYPE,
    HEADER_SCHEMA,
    HEADER_STATUS,
    SCHEMA_VERSION,
    STATUS_ERROR,
    STATUS_RUNNING,
    BlobRef,
    ErrorInfo,
    NativeCall,
    NativeRunning,
    decode,
    encode_json,
)
from parrot_mq.messages.values import MAX_INLINE_BYTES
from parrot_mq.observability import TraceContext, trace_headers

__all__ = [
    "MAX_OBJECT_BYTES",
    "check_object",
    "encode_call",
    "is_beat",
    "name_of",
    "pick_large",
    "read_answer",
    "read_beat",
]

MAX_OBJECT_BYTES = 16 * 1024 * 1024
"""Most bytes of an answer that has several outputs."""
MAX_HOST_CHARACTERS = 64
_MAX_SHOWN = 10


# -- calls -----------------------------------------------------------------------------------------------------------


def pick_large(arguments: Mapping[str, Known], max_bytes: int = MAX_INLINE_BYTES) -> list[str]:
    """Names of the arguments that have to travel as claim checks, so that the others fit; the largest ones.

    Args:
        arguments: All of them.
        max_bytes: How many bytes of JSON the others may take together.
    """
    sizes = {name: len(msgspec.json.encode(value)) for name, value in arguments.items() if isinstance(value, str)}
    total = sum(sizes.values())
    large: list[str] = []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= max_bytes:
            break
        total -= sizes[name]
        large.append(name)
    return large


def encode_call(
    call: ReadyCall,
    arguments: Mapping[str, Known],
    *,
    attempt: int,
    deadline: float,
    max_bytes: int,
    trace: TraceContext | None = None,
) -> tuple[bytes, dict[str, str]]:
    """Payload and headers of one attempt.

    Args:
        call: What is called.
        arguments: Its arguments, large ones as claim checks.
        attempt: Which attempt it is.
        deadline: When nobody waits for its answer any more, seconds since 1970.
        max_bytes: Most bytes that a message may have.
        trace: Where it belongs in a trace.

    Raises:
        FunctionFailed: There are so many arguments that they fit no message.
    """
    message = NativeCall(
        call=call.key,
        function=call.function,
        arguments=dict(arguments),
        outputs=list(call.outputs),
        attempt=attempt,
        deadline=deadline,
    )
    payload = encode_json(message)
    headers = {HEADER_CONTENT_TYPE: CONTENT_JSON, HEADER_SCHEMA: SCHEMA_VERSION, **trace_headers(trace)}
    if len(payload) > max_bytes:
        problem = f"its {len(arguments)} arguments take {len(payload)} bytes, the limit is {max_bytes}; pass fewer"
        raise FunctionFailed(function=call.function, problem=problem)
    return payload, headers


# -- answers ---------------------------------------------------------------------------------------------------------


def is_beat(answer: Delivery) -> bool:
    """Whether the answer is still to come."""
    return answer.headers.get(HEADER_STATUS) == STATUS_RUNNING


def read_beat(call: ReadyCall, answer: Delivery) -> NativeRunning:
    """Read a beat.

    Raises:
        FunctionFailed: It cannot be read.
    """
    try:
        return decode(answer.payload, NativeRunning, answer.headers)
    except CodecError as error:
        raise FunctionFailed(function=call.function, problem=f"its beat cannot be read: {error.message}") from error


def name_of(host: str) -> str:
    """What a host calls itself, in a form that fits a header and a line of text."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in host[:MAX_HOST_CHARACTERS])


def read_answer(call: ReadyCall, answer: Delivery) -> Known | Setback:
    """Read the last answer: the value, or why there is none. One that cannot be used is a failure of the function."""
    try:
        if answer.headers.get(HEADER_STATUS) == STATUS_ERROR:
            return _setback(decode(answer.payload, ErrorInfo, answer.headers))
        if HEADER_BLOB in answer.headers:
            return decode(answer.payload, BlobRef, answer.headers)
        text = answer.payload.decode()
        check_object(call, text)
        return text
    except CodecError as error:
        problem = f"its answer cannot be read: {error.message}"
    except UnicodeDecodeError as error:
        problem = f"its answer is no UTF-8: byte {answer.payload[error.start]:#04x} at offset {error.start}"
    except ParrotError as error:
        return Setback(SetbackKind.REFUSED, error)
    return Setback(SetbackKind.REFUSED, FunctionFailed(function=call.function, problem=problem))


def _setback(info: ErrorInfo) -> Setback:
    if info.code == CapacityExhausted.code:
        kind = SetbackKind.BUSY
    else:
        kind = SetbackKind.FAILED if info.retryable else SetbackKind.REFUSED
    return Setback(kind, ErrorInfo.from_error(info.to_error()).to_error())  # no longer than any error of ours


def check_object(call: ReadyCall, text: str | bytes) -> None:
    """Make sure that the answer of a function with several outputs has all of them.

    Raises:
        FunctionFailed: It has not.
    """
    if len(call.outputs) == 1:
        return
    if (problem := _find_problem(call.outputs, text)) is not None:
        raise FunctionFailed(function=call.function, problem=problem)


def _find_problem(outputs: tuple[str, ...], text: str | bytes) -> str | None:
    expected = f"expected a JSON object with {', '.join(outputs)}"
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"its answer is no JSON ({error}); {expected}"
    if not isinstance(found, dict):
        return f"its answer is no JSON object; {expected}"
    if missing := [name for name in outputs if name not in found]:
        names = [str(name) for name in found][:_MAX_SHOWN]
        return f"its answer lacks {', '.join(missing)}, it has {', '.join(names) or 'nothing'}; {expected}"
    return None
