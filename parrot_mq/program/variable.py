"""Semantic variables: named texts that are set once.

Source: Parrot, OSDI'24, section 4.1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from typing import Protocol

from parrot_mq.errors import CallError
from parrot_mq.program.marks import Mark
from parrot_mq.program.transforms import MAX_LIST_ITEMS, decode_list
from parrot_mq.types import TextPiece, item_variable

__all__ = ["ListVariable", "SemanticVariable", "VariableStore"]


class VariableStore(Protocol):
    """Where variables live: a session. The client's session implements it."""

    @property
    def tenant(self) -> str:
        """The tenant that the session belongs to."""

    @property
    def name(self) -> str:
        """The session's name."""

    async def get(self, variable_id: str, timeout_s: float | None = None) -> str:
        """Wait for the value."""

    def stream(self, variable_id: str, timeout_s: float | None = None) -> AsyncIterator[TextPiece]:
        """The value in pieces, as they are generated."""

    async def set(self, variable_id: str, value: str | Sequence[str]) -> None:
        """Give the variable its value: a text, or a list of texts."""

    async def mark(self, variables: str, objective: Mark) -> None:
        """Say what is wanted of the variable."""

    async def cancel(self, variable_id: str) -> object:
        """Give up the generation of the variable."""


class SemanticVariable:
    """A text that is or will be known, by name.

    Pass it to a semantic function as an input, without waiting for it: the call runs on the server once the text is
    there. `await` it to read the text here.

    Example:
        ```python
        summary = summarise(passage=text)
        print(await summary)
        ```
    """

    __slots__ = ("_id", "_session")

    def __init__(self, session: VariableStore, variable_id: str) -> None:
        self._session = session
        self._id = variable_id

    @property
    def id(self) -> str:
        """The variable's name in its session: the last token of its subject."""
        return self._id

    @property
    def session(self) -> VariableStore:
        """The session that it belongs to."""
        return self._session

    def __await__(self) -> Generator[object, None, str]:
        return self.get().__await__()

    async def get(self, timeout_s: float | None = None) -> str:
        """Wait for the text.

        Args:
            timeout_s: How long to wait at most; without it, as long as the session allows.

        Raises:
            DeadlineExceeded: The text was not there in time.
            ParrotError: The variable failed; the error says why.
        """
        return await self._session.get(self._id, timeout_s)

    def stream(self, timeout_s: float | None = None) -> AsyncIterator[TextPiece]:
        """The text in pieces, as they are generated; joined they are the text that `get` returns.

        A piece is a `str`. If the output asks for log probabilities, its `logprobs` has those of its tokens.

        Args:
            timeout_s: How long the whole text may take at most.

        Raises:
            DeadlineExceeded: The text was not complete in time.
            ParrotError: The variable failed; the error says why.
        """
        return self._session.stream(self._id, timeout_s)

    async def set(self, text: str) -> None:
        """Give the variable its text.

        Raises:
            VariableAlreadySet: It has another text already.
        """
        await self._session.set(self._id, text)

    async def mark(self, objective: Mark) -> None:
        """Say what is wanted of it, at any time: it replaces what was said before, and what it is made of follows.

        Awaiting or streaming a variable of which nothing was said means `"latency"`.

        Args:
            objective: `"latency"` (somebody waits for it), `"throughput"` (it only has to be finished), or an
                `Objective` with targets.

        Raises:
            ConfigurationError: The objective cannot be used; the message names the field and what it may be.
            NoResponders: No coordinator is running.
        """
        await self._session.mark(self._id, objective)

    async def cancel(self) -> None:
        """Give up its generation: whoever waits for it gets `TaskCancelled`. Nothing happens if it is set."""
        await self._session.cancel(self._id)

    def as_list(self) -> ListVariable:
        """The same variable as a list, for what is known to be a JSON array of texts.

        What a call returns for an output that is a list is one already; this tells a type checker.
        """
        return ListVariable(self._session, self._id)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, SemanticVariable) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, str, str]:
        return self._session.tenant, self._session.name, self._id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id!r} of session {self._session.name!r}>"

    def __str__(self) -> str:
        # An f-string with a variable in it would put its name, not its text, into a prompt, and nobody would notice.
        raise CallError(
            f"the text of {self!r} may not be known yet, so it cannot be formatted here; read it with "
            f"`await variable`, or pass the variable to a semantic function as an input (its name is `variable.id`)",
            variable=self._id,
        )

    def __format__(self, format_spec: str) -> str:
        return str(self)


class ListVariable(SemanticVariable):
    """A list of texts that is or will be known, by name; how many there are is known with it.

    Pass it to a function as an input, and its items stand there, joined by the input's separator. Give it to
    `SemanticFunction.map`, and the function runs once for each item. `await` it to read the items here.

    On the bus it is a variable like any other, whose text is a JSON array of texts.

    Example:
        ```python
        points = extract(passage=text).as_list()  # `points: Output = Output(transform=Split())`
        reviews = review.map(point=points)
        verdict = conclude(reviews=reviews)
        print(await points, await verdict)
        ```
    """

    __slots__ = ()

    def __await__(self) -> Generator[object, None, list[str]]:  # type: ignore[override]
        return self.get().__await__()

    async def get(self, timeout_s: float | None = None) -> list[str]:  # type: ignore[override]
        """Wait for the items.

        Args:
            timeout_s: How long to wait at most; without it, as long as the session allows.

        Raises:
            DeadlineExceeded: The list was not there in time.
            TransformError: The variable is no list of texts.
            ParrotError: The variable failed; the error says why.
        """
        return decode_list(await self._session.get(self._id, timeout_s), variable=self._id)

    def item(self, index: int) -> SemanticVariable:
        """The variable of one item, counted from 0; it may be set long before the list is complete.

        Nobody sets it if the list turns out to be shorter, or if a client of another kind sets the list alone.

        Raises:
            CallError: No list is so long.
            InvalidName: The list's own name leaves no room for the number.
        """
        if not isinstance(index, int) or not 0 <= index < MAX_LIST_ITEMS:
            problem = f"{self!r} has no item {index!r}: items are counted from 0 to {MAX_LIST_ITEMS - 1}"
            raise CallError(f"{problem}; to count from the end, await the list first", variable=self._id)
        return SemanticVariable(self._session, item_variable(self._id, index))

    async def set(self, items: Sequence[str]) -> None:
        """Give the list its items.

        Raises:
            VariableAlreadySet: It has other items already.
            CallError: The items are no list of texts.
        """
        if isinstance(items, str):
            raise CallError(f"{self!r} takes a list of texts, got one text; write `[text]`", variable=self._id)
        await self._session.set(self._id, items)

    def as_list(self) -> ListVariable:
        """Itself."""
        return self
