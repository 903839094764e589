"""Prompts whose beginning is computed before they come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from parrot_workers.engine.base import PrefillRequest
from parrot_workers.kv_cache import SequenceCache

__all__ = ["Prefill", "PrefillQueue", "ReadPrefill"]

_MAX_RECORDS = 4096
_MAX_ROUNDS = 2  # times that a prompt is computed: what others need the pages of again and again is not worth more

ReadPrefill = Callable[[PrefillRequest], tuple[list[int], list[tuple[str, int]]]]
"""The tokens of a beginning; names of its leading parts, and their numbers of tokens. What it raises leaves it out."""


class Prefill:
    """A beginning that is to be computed. It holds pages only while a step is made: what is computed is in the tree.

    Attributes:
        request: What it is.
        token_ids: Its tokens.
        prefixes: Names of leading parts of it, and their numbers of tokens.
        cache: Its pages, from the moment that a step has some of it until the step is launched.
        num_rows: Tokens of it that went through the model.
    """

    __slots__ = ("cache", "num_rows", "prefixes", "request", "token_ids")

    def __init__(self, request: PrefillRequest, token_ids: list[int], prefixes: list[tuple[str, int]]) -> None:
        self.request = request
        self.token_ids = token_ids
        self.prefixes = prefixes
        self.cache: SequenceCache | None = None
        self.num_rows = 0

    @property
    def is_too_much(self) -> bool:
        """True if what was computed of it is lost again and again."""
        return self.num_rows >= _MAX_ROUNDS * len(self.token_ids)


class PrefillQueue:
    """What is to be computed ahead, in order; what of it is done; and how much was computed for whom.

    Args:
        read: Reads the tokens of one; called when its turn comes.
    """

    def __init__(self, read: ReadPrefill) -> None:
        self._read = read
        self._requests: OrderedDict[str, PrefillRequest] = OrderedDict()  # that are to be done
        self._done: dict[str, PrefillRequest] = {}  # that are named, and done or left out
        self._first: Prefill | None = None
        self._is_blocked = False
        self._told: list[str] = []
        self._computed: OrderedDict[str, list[tuple[int, int]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def has_work(self) -> bool:
        """True if there is one, and perhaps room for it."""
        return bool(self._requests) and not self._is_blocked

    def replace(self, requests: Iterable[PrefillRequest]) -> None:
        """Do these instead. What is done stays done as long as it is named."""
        named = {request.key: request for request in requests}
        self._done = {key: request for key, request in self._done.items() if named.get(key) == request}
        self._requests = OrderedDict((key, named[key]) for key in named if key not in self._done)
        self._is_blocked = False

    def remove(self, key: str) -> None:
        """Leave one out: its request has come, or it cannot be computed."""
        if (request := self._requests.pop(key, None)) is not None:
            self._done[key] = request

    def next(self) -> Prefill | None:
        """The one whose turn it is; it stays. Reads its tokens if that has not been done."""
        while self.has_work:
            request = next(iter(self._requests.values()))
            if self._first is not None and self._first.request == request:
                return self._first
            try:
                self._first = Prefill(request, *self._read(request))
            except Exception:  # too long, say; its request will tell
                self.remove(request.key)
        return None

    def block(self) -> None:
        """There is no room: nothing is to be done until `unblock`."""
        self._is_blocked = True

    def unblock(self) -> None:
        """There may be room again."""
        self._is_blocked = False

    def note(self, prefill: Prefill, begin: int, end: int) -> None:
        """Tokens of one, from position `begin` to `end`, are computed."""
        prefill.num_rows += end - begin
        ranges = self._computed.setdefault(prefill.request.key, [])
        if ranges and ranges[-1][1] == begin:
            begin, _ = ranges.pop()
        ranges.append((begin, end))
        if len(self._computed) > _MAX_RECORDS:
            self._computed.popitem(last=False)

    def finish(self, prefill: Prefill) -> None:
        """One is computed."""
        self.remove(prefill.request.key)
        self._told.append(prefill.request.key)

    def take_finished(self) -> list[str]:
        """Keys of those that are computed, each once."""
        told, self._told = self._told, []
        return told

    def take_computed(self, key: str, num_shared_tokens: int) -> int:
        """How many of the leading tokens of a request were computed ahead for it; forgotten afterwards."""
        ranges = self._computed.pop(key, [])
        return len({position for begin, end in ranges for position in range(begin, min(end, num_shared_tokens))})
