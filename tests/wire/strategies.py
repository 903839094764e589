"""What hypothesis draws messages from: each strategy follows from the message's types, so a new message has one too."""

from __future__ import annotations

import functools
import json
import operator
from typing import Any

import msgpack
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import parrot_mq.messages as wire
from parrot_mq.messages import Message
from parrot_mq.program.transforms import JsonPointer, Regex

__all__ = [
    "MESSAGE_TYPES",
    "broken",
    "json_documents",
    "messages",
    "messages_of",
    "msgpack_documents",
    "names",
    "unhurried",
]

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For every property here: a busy machine is no failure."""

INTEGERS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)

MESSAGE_TYPES: list[type[Message]] = [
    value
    for name in wire.__all__
    if isinstance(value := getattr(wire, name), type) and issubclass(value, Message) and value is not Message
]

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
scalars = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS)


def _containers(keys: st.SearchStrategy[Any], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4))
    )


json_documents = _containers(TEXTS, scalars)
msgpack_documents = _containers(
    st.one_of(TEXTS, st.binary(max_size=4), INTEGERS, st.none()),
    st.one_of(
        scalars,
        st.floats(),
        st.binary(max_size=20),
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
        st.builds(msgpack.Timestamp, st.integers(0, 2**32), st.integers(0, 10**9 - 1)),
    ),
)


@functools.cache
def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of a class that the wire can carry."""
    return _struct(msgspec.inspect.type_info(cls))


messages = st.sampled_from(MESSAGE_TYPES).flatmap(messages_of)


@st.composite
def broken(draw: st.DrawFn, message: Message, values: st.SearchStrategy[Any]) -> Any:
    """A message as plain data, with a value put in somewhere or a key taken out."""
    plain = json.loads(msgspec.json.encode(message))
    place = draw(st.sampled_from(_places(plain)))
    if place and draw(st.booleans()):
        del _at(plain, place[:-1])[place[-1]]
        return plain
    value = draw(values)
    if not place:
        return value
    _at(plain, place[:-1])[place[-1]] = value
    return plain


def _at(plain: Any, place: tuple[Any, ...]) -> Any:
    return functools.reduce(operator.getitem, place, plain)


def _places(plain: Any) -> list[tuple[Any, ...]]:
    """The way to every value inside, from the outside in."""
    entries = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [(), *((key, *place) for key, value in entries for place in _places(value))]


# -- by type ---------------------------------------------------------------------------------------------------------


FIELDS = {
    (Regex, "pattern"): st.sampled_from([r"\d+", r"(?P<name>[a-z]*) 🦜", r"(?i)a|b"]),
    (Regex, "group"): st.just(0),
    (JsonPointer, "pointer"): st.lists(st.from_regex(r"/([^~/]|~0|~1)*", fullmatch=True), max_size=3).map("".join),
}
"""Fields that have a grammar of their own, which chance seldom hits."""


def _struct(info: Any) -> st.SearchStrategy[Any]:
    drawn = {
        field.name: FIELDS[place] if (place := (info.cls, field.name)) in FIELDS else _any(field.type)
        for field in info.fields
    }
    required = {field.name: drawn[field.name] for field in info.fields if field.required}
    optional = {field.name: drawn[field.name] for field in info.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: _make(info.cls, fields)).filter(bool)


def _make(cls: Any, fields: dict[str, Any]) -> Any:
    """A struct; nothing if its fields do not go together."""
    try:
        return cls(**fields)
    except ValueError:
        return None


def _any(info: Any) -> st.SearchStrategy[Any]:
    match info:
        case msgspec.inspect.Metadata():
            return _any(info.type)
        case msgspec.inspect.StructType():
            return _struct(info)
        case msgspec.inspect.UnionType():
            return st.one_of([_any(each) for each in info.types])
        case msgspec.inspect.LiteralType():
            return st.sampled_from(info.values)
        case msgspec.inspect.DictType():
            return st.dictionaries(
                _any(info.key_type), _any(info.value_type), min_size=info.min_length or 0, max_size=3
            )
        case msgspec.inspect.ListType():
            return st.lists(_any(info.item_type), max_size=3)
        case msgspec.inspect.VarTupleType():
            return st.lists(_any(info.item_type), max_size=3).map(tuple)
        case msgspec.inspect.TupleType():
            return st.tuples(*(_any(each) for each in info.item_types))
        case msgspec.inspect.StrType():
            return _text(info)
        case msgspec.inspect.BytesType():
            return st.binary(max_size=20)
        case msgspec.inspect.IntType():
            return st.integers(-(2**63) if info.ge is None else info.ge, 2**64 - 1 if info.le is None else info.le)
        case msgspec.inspect.FloatType():
            return _float(info)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
    raise NotImplementedError(f"say here how to draw a {type(info).__name__}")


def _text(info: Any) -> st.SearchStrategy[str]:
    if info.pattern is not None:
        return st.from_regex(info.pattern, fullmatch=True)
    return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 20, 20))


def _float(info: Any) -> st.SearchStrategy[float]:
    low, high = (info.gt if info.ge is None else info.ge), (info.lt if info.le is None else info.le)
    return st.floats(
        low,
        high,
        exclude_min=info.gt is not None,
        exclude_max=info.lt is not None,
        allow_nan=False,
        allow_infinity=False,
    )
