"""Seeded random values, split by hash into those for training and those held out for evaluation."""

from __future__ import annotations

import enum
import functools
import random
import string
import zlib
from collections.abc import Callable

from parrot_workers.tiny_model.vocabulary import FIELDS_BY_KIND, FILLER_WORDS, WORDS_BY_KIND

_HELD_OUT_SHARE = 8
_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"
_MAX_TRIES = 1000


class Split(enum.Enum):
    """Which part of the value space a sample may use."""

    TRAIN = "train"
    """Values whose hash leaves them to training."""
    HELD_OUT = "held out"
    """Values (names, words, numbers, field names) that training never shows."""


def is_held_out(text: str) -> bool:
    """Tell whether ``text`` is kept from training; one value in eight is, single characters never."""
    return len(text) > 1 and zlib.crc32(text.lower().encode()) % _HELD_OUT_SHARE == 0


def in_split(text: str, split: Split) -> bool:
    """Tell whether a sample of ``split`` may use ``text``; single characters are too few to divide."""
    return len(text) <= 1 or is_held_out(text) == (split is Split.HELD_OUT)


@functools.cache
def _listed(entries: tuple[str, ...], split: Split) -> tuple[str, ...]:
    return tuple(entry for entry in entries if in_split(entry, split))


class Values:
    """A source of random values of one split.

    Args:
        rng: The only source of randomness.
        split: The part of the value space to draw from.
    """

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split

    def number(self, max_digits: int = 5) -> str:
        """Draw a number of 1 to ``max_digits`` digits without leading zero."""
        num_digits = self.rng.randint(1, max_digits)
        return self._accepted(lambda: str(self._with_digits(num_digits)))

    def number_as_long_as(self, number: str) -> str:
        """Draw a number of as many digits as ``number``."""
        return self._accepted(lambda: str(self._with_digits(len(number))))

    def number_near(self, number: str) -> str:
        """Draw a number close to ``number``: a small step away, or one digit or the length changed."""
        return self._accepted(lambda: str(self._changed_number(int(number))))

    def word(self) -> str:
        """Draw a listed or an invented word."""
        return self.listed("word") if self.rng.random() < 0.4 else self.invented_word()

    def invented_word(self) -> str:
        """Draw a word of one to four syllables, or of random letters, in a random case."""
        return self._accepted(lambda: self._cased(self._syllables() if self.rng.random() < 0.7 else self._letters()))

    def listed(self, kind: str) -> str:
        """Draw an entry of the vocabulary, or an invented word where the split has none of this kind."""
        entries = _listed(WORDS_BY_KIND[kind], self.split)
        return self.rng.choice(entries) if entries else self.invented_word()

    def phrase(self, max_words: int = 4) -> str:
        """Draw one to ``max_words`` words, some of them numbers or with punctuation."""
        words = [self.word() for _ in range(self.rng.randint(1, max_words))]
        if self.rng.random() < 0.2:
            words[self.rng.randrange(len(words))] = self.number()
        text = " ".join(words)
        return text + self.rng.choice((".", "!", "?")) if self.rng.random() < 0.08 else text

    def code(self) -> str:
        """Draw an identifier of letters, digits and punctuation."""
        return self._accepted(self._code)

    def date(self) -> str:
        """Draw a date or a time in one of several notations."""
        return self._accepted(self._date)

    def value(self, kind: str | None = None) -> str:
        """Draw a value of ``kind``, or of any kind."""
        kind = kind or self.rng.choice(("number", "code", "date", "phrase", "word", *WORDS_BY_KIND))
        if kind in WORDS_BY_KIND and kind != "word":
            return self.listed(kind) if self.rng.random() < 0.6 else self._name()
        draw: dict[str, Callable[[], str]] = {
            "number": self.number,
            "code": self.code,
            "date": self.date,
            "phrase": functools.partial(self.phrase, 3),
            "word": self.word,
        }
        return draw[kind]()

    def changed(self, text: str) -> str:
        """Draw a text that differs from ``text`` in one place."""
        changed = self._accepted(lambda: " ".join(self._edited(text).split()))
        return changed if changed != text else text + "x"

    def field(self) -> tuple[str, str]:
        """Draw a field name and the kind of value it holds."""
        kind = self.rng.choice((*FIELDS_BY_KIND, "number", "number", "code", "word"))
        if self.rng.random() < 0.25:
            kind = self.rng.choice(tuple(FIELDS_BY_KIND))
            return self._accepted(self._invented_field), kind
        names = _listed(FIELDS_BY_KIND[kind], self.split)
        return (self.rng.choice(names) if names else self._accepted(self._invented_field)), kind

    def sentence(self) -> str:
        """Draw a sentence of filler words, without meaning."""
        words = self.rng.choices(FILLER_WORDS, k=self.rng.randint(2, 7))
        return " ".join(words).capitalize() + "."

    def _accepted(self, draw: Callable[[], str]) -> str:
        """Draw until the split accepts the value."""
        for _ in range(_MAX_TRIES):
            text = draw()
            if in_split(text, self.split):
                return text
        raise RuntimeError(f"no value of the split {self.split.value!r} in {_MAX_TRIES} draws")

    def _with_digits(self, num_digits: int) -> int:
        return self.rng.randint(10 ** (num_digits - 1) if num_digits > 1 else 0, 10**num_digits - 1)

    def _changed_number(self, number: int) -> int:
        digits = list(str(number))
        draw = self.rng.random()
        if draw < 0.3:
            number += self.rng.choice((-1, 1)) * self.rng.randint(1, 12)
        elif draw < 0.45:
            number = number * 10 + self.rng.randint(0, 9) if len(digits) < 5 else number // 10
        elif draw < 0.6:
            self.rng.shuffle(digits)
            number = int("".join(digits))
        else:
            digits[self.rng.randrange(len(digits))] = str(self.rng.randint(0, 9))
            number = int("".join(digits))
        return number if 0 <= number <= 99999 else self._with_digits(5)

    def _syllables(self) -> str:
        count = self.rng.randint(1, 4)
        text = "".join(self.rng.choice(_CONSONANTS) + self.rng.choice(_VOWELS) for _ in range(count))
        return text + (self.rng.choice(_CONSONANTS) if self.rng.random() < 0.5 else "")

    def _letters(self) -> str:
        return "".join(self.rng.choices(string.ascii_lowercase, k=self.rng.randint(2, 9)))

    def _cased(self, word: str) -> str:
        draw = self.rng.random()
        if draw < 0.5:
            return word
        return word.capitalize() if draw < 0.85 else word.upper() if draw < 0.95 else word[:2] + word[2:].title()

    def _name(self) -> str:
        words = [self.invented_word() for _ in range(self.rng.randint(1, 2))]
        return " ".join(word if word.isupper() else word[:1].upper() + word[1:] for word in words)

    def _run(self, alphabet: str, low: int, high: int) -> str:
        return "".join(self.rng.choices(alphabet, k=self.rng.randint(low, high)))

    def _code(self) -> str:
        upper, digits, hexa = string.ascii_uppercase, string.digits, "0123456789abcdef"
        shapes: tuple[Callable[[], str], ...] = (
            lambda: f"{self._run(upper, 1, 3)}-{self._run(digits, 2, 5)}",
            lambda: f"{self._run(upper, 1, 3)}{self._run(digits, 1, 4)}",
            lambda: self._run(hexa, 6, 10),
            lambda: self._run(string.ascii_letters + digits, 5, 10),
            lambda: f"{self._run(digits, 1, 2)}.{self._run(digits, 1, 2)}.{self._run(digits, 1, 2)}",
            lambda: f"{self._run(digits, 3, 3)}-{self._run(digits, 4, 4)}",
            lambda: f"{self._syllables()}@{self._syllables()}.{self.rng.choice(('com', 'org', 'net'))}",
            lambda: f"{self._syllables()}_{self._syllables()}.{self.rng.choice(('txt', 'py', 'csv'))}",
            lambda: f"{self._run(digits, 1, 3)}{self.rng.choice((' km', ' kg', '%', ' m', ' EUR', ',5', '.99'))}",
        )
        return self.rng.choice(shapes)()

    def _date(self) -> str:
        year, month, day = self.rng.randint(1800, 2099), self.rng.randint(1, 12), self.rng.randint(1, 28)
        name = self.rng.choice(WORDS_BY_KIND["month"][:12])
        if self.rng.random() < 0.2:
            return f"{self.rng.randint(0, 23):02}:{self.rng.randint(0, 59):02}"
        shapes = (
            f"{year}-{month:02}-{day:02}",
            f"{day}.{month}.{year}",
            f"{day} {name} {year}",
            f"{month}/{day}/{year}",
        )
        return self.rng.choice(shapes)

    def _invented_field(self) -> str:
        joint = "_" if self.rng.random() < 0.3 else " "
        words = _listed(WORDS_BY_KIND["word"], self.split) + _listed(FIELDS_BY_KIND["number"], self.split)
        parts = [
            self.rng.choice(words) if self.rng.random() < 0.5 else self._syllables()
            for _ in range(self.rng.choice((1, 1, 2, 2, 3)))
        ]
        return joint.join(parts).replace(" " if joint == "_" else "_", joint).lower()

    def _edited(self, text: str) -> str:
        at = self.rng.randrange(len(text))
        old = text[at]
        alphabet = string.digits if old.isdigit() else string.ascii_letters if self.rng.random() < 0.3 else _VOWELS
        draw = self.rng.random()
        if draw < 0.6 or len(text) < 2:
            return text[:at] + self.rng.choice([char for char in alphabet if char != old]) + text[at + 1 :]
        if draw < 0.75:
            return text[:at] + text[at + 1 :]
        if draw < 0.9:
            return text[:at] + self.rng.choice(alphabet) + text[at:]
        return text.swapcase() if text.swapcase() != text else text[:at] + self.rng.choice(string.digits) + text[at:]
