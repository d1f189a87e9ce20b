"""Columns that grow by blocks of Python values and end as numpy arrays."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamapp.core.events import Bytes, Codes, Floats, Ints, Kind, Names, Values

Block = Sequence[Any]
"""Values of one column for some rows; never empty."""


def floats(block: Block) -> Floats:
    """Return numbers and bools as floats, None as nan."""
    missing = block.count(None)
    if missing == len(block):
        return np.full(missing, np.nan)
    if missing:
        block = [_NAN if value is None else value for value in block]
    # Four times as fast as numpy's own way through a sequence of floats.
    return np.frombuffer(struct.pack(f"{len(block)}d", *block))


_NAN = float("nan")


class FloatColumn:
    """Numbers; None becomes nan."""

    def __init__(self) -> None:
        self._parts: list[Floats] = []

    def add(self, block: Block) -> None:
        """Append some rows; likewise in the other classes."""
        self._parts.append(floats(block))

    def array(self) -> Floats:
        """Return all rows; likewise in the other classes."""
        return np.concatenate(self._parts)


class IntColumn:
    """Integers of 64 bits."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, block: Block) -> None:  # noqa: D102
        self._parts.append(struct.pack(f"{len(block)}q", *block))

    def array(self) -> Ints:  # noqa: D102
        return np.frombuffer(b"".join(self._parts), dtype=np.int64)


class ByteColumn:
    """Integers from 0 to 255."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, block: Block) -> None:  # noqa: D102
        self._parts.append(bytes(block))

    def array(self) -> Bytes:  # noqa: D102
        return np.frombuffer(b"".join(self._parts), dtype=np.uint8)


class Vocabulary:
    """Words and their codes, in order of first appearance; None is -1 and no word."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {None: -1}

    def codes(self, block: Block) -> Codes:
        """Return the code of each word; new words get the next ones."""
        first = block[0]
        if block.count(first) == len(block):
            return np.full(len(block), self._code(first), dtype=np.int32)
        for word in dict.fromkeys(block):
            self._code(word)
        codes = self._codes
        return np.array([codes[word] for word in block], dtype=np.int32)

    def words(self) -> tuple[str, ...]:
        """Return the words, by code."""
        return tuple(word for word in self._codes if word is not None)

    def _code(self, word: str | None) -> int:
        return self._codes.setdefault(word, len(self._codes) - 1)


class NameColumn:
    """Strings that repeat, or None."""

    def __init__(self) -> None:
        self._vocabulary = Vocabulary()
        self._parts: list[Codes] = []

    def add(self, block: Block) -> None:  # noqa: D102
        self._parts.append(self._vocabulary.codes(block))

    def array(self) -> Names:  # noqa: D102
        return Names(code=np.concatenate(self._parts), words=self._vocabulary.words())


class LabelColumn:
    """Labels of any type, or None; ints count as numbers."""

    def __init__(self) -> None:
        self._vocabulary = Vocabulary()
        self._kinds: list[Bytes] = []
        self._numbers: list[Floats] = []

    def add(self, block: Block) -> None:  # noqa: D102
        types = set(map(type, block))
        if len(types) == 1:
            kind = _KINDS.get(types.pop(), Kind.NUMBER)
            self._kinds.append(np.full(len(block), kind, dtype=np.uint8))
            if kind == Kind.STRING:
                self._numbers.append(self._vocabulary.codes(block).astype(np.float64))
            else:
                self._numbers.append(floats(block))
            return
        kinds = np.array([_KINDS.get(type(label), Kind.NUMBER) for label in block], dtype=np.uint8)
        codes = self._vocabulary.codes([label if isinstance(label, str) else None for label in block])
        numbers = floats([None if isinstance(label, str) else label for label in block])
        self._kinds.append(kinds)
        self._numbers.append(np.where(kinds == Kind.STRING, codes, numbers))

    def array(self) -> Values:  # noqa: D102
        kind, number = np.concatenate(self._kinds), np.concatenate(self._numbers)
        return Values(kind=kind, number=number, words=self._vocabulary.words())


_KINDS = {type(None): Kind.NONE, bool: Kind.BOOL, str: Kind.STRING}


class ScoreColumn:
    """A scalar score, or probabilities by class, or None."""

    def __init__(self) -> None:
        self._scalars = FloatColumn()
        self._tables: list[dict[str, float]] | None = None
        """Of all rows so far, once one had probabilities by class."""
        self._rows = 0

    def add(self, block: Block) -> None:  # noqa: D102
        if dict in set(map(type, block)):
            self._tables = self._tables or [{}] * self._rows
            self._tables += [scores if isinstance(scores, dict) else {} for scores in block]
            block = [None if isinstance(scores, dict) else scores for scores in block]
        elif self._tables is not None:
            self._tables += [{}] * len(block)
        self._scalars.add(block)
        self._rows += len(block)

    def array(self) -> Floats:
        """Return the scalar scores, nan where there is none."""
        return self._scalars.array()

    def probabilities(self) -> tuple[tuple[str, ...], Floats]:
        """Return the classes, and their probabilities by row, shape (rows, classes).

        A class that a row with probabilities does not name has 0 there. A row without any is nan.
        """
        if self._tables is None:
            return (), np.empty((self._rows, 0))
        tables = self._tables
        classes = {name: place for place, name in enumerate(dict.fromkeys(name for table in tables for name in table))}
        width = len(classes)
        shares = np.repeat([0.0 if table else np.nan for table in tables], width)
        cells = [row * width + classes[name] for row, table in enumerate(tables) for name in table]
        shares[cells] = [share for table in tables for share in table.values()]
        return tuple(classes), shares.reshape(len(tables), width)
