"""Strings that repeat, as codes: equal strings have equal codes, None is -1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamapp.core.events import Codes, Ints, Names

FEW = 64
"""Rows up to which going through them costs less than a dozen calls of numpy."""
MANY = 4096
"""Words from which on looking at each of them costs more than sorting the rows."""


class Words:
    """A vocabulary that grows with what is put into it, and forgets when :meth:`keep` says so."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {None: -1}
        self._words: list[str] = []

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, code: int) -> str | None:
        """Return the word of a code."""
        return None if code < 0 else self._words[code]

    def code(self, word: str | None) -> int:
        """Return the code of a word; a new one gets the next."""
        code = self._codes.get(word)
        if code is None:
            assert word is not None
            code = self._codes[word] = len(self._words)
            self._words.append(word)
        return code

    def codes(self, block: Sequence[str | None]) -> Codes:
        """Return the codes of some words, shape (n,)."""
        n = len(block)
        if block.count(block[0]) == n:
            return np.full(n, self.code(block[0]), dtype=np.int32)
        try:
            return np.fromiter(map(self._codes.__getitem__, block), dtype=np.int32, count=n)
        except KeyError:
            return np.fromiter(map(self.code, block), dtype=np.int32, count=n)

    def names(self, codes: Codes) -> Names:
        """Return a column of codes as a column of its own words, in order of first appearance."""
        places, code = firsts(codes, len(self._words))
        return Names(code=code, words=tuple([self._words[place] for place in places.tolist()]))

    def keep(self, used: Ints | Codes) -> Codes:
        """Forget every word but those of some codes; return the new code by old one, -1 for -1 in the last place."""
        kept = np.unique(used[used >= 0])
        self._words = [self._words[code] for code in kept.tolist()]
        mapping = np.full(max(int(kept[-1]) + 1 if len(kept) else 0, len(self._codes) - 1) + 1, -1, dtype=np.int32)
        mapping[kept] = np.arange(len(kept), dtype=np.int32)
        self._codes = {None: -1, **{word: code for code, word in enumerate(self._words)}}
        return mapping


@dataclass(slots=True)
class Vocabularies:
    """Words by code, of the columns of the table."""

    version: Words
    series: Words
    unit: Words
    label: Words


def firsts(codes: Codes | Ints, size: int) -> tuple[Ints, Codes]:
    """Return the distinct codes in order of first appearance, and each row's place among them; -1 stays -1.

    Args:
        codes: Shape (n,), from -1 to size - 1.
        size: How many codes there are.
    """
    n = len(codes)
    if n <= FEW:
        listed = codes.tolist()
        numbers = {code: number for number, code in enumerate(code for code in dict.fromkeys(listed) if code >= 0)}
        own = np.fromiter(numbers, dtype=np.int64, count=len(numbers))
        numbers[-1] = -1
        return own, np.array([numbers[code] for code in listed], dtype=np.int32)
    if codes[0] == codes[-1] and codes.min() == codes.max():
        alone = codes[0] >= 0
        found: Ints = codes[: 1 if alone else 0].astype(np.int64)
        return found, np.full(n, 0 if alone else -1, dtype=np.int32)
    if size > max(n, MANY):
        distinct, index, back = np.unique(codes, return_index=True, return_inverse=True)
        if distinct[0] < 0:
            distinct, index, back = distinct[1:], index[1:], back - 1
        order = np.argsort(index)
        place = np.empty(len(distinct) + 1, np.int32)
        place[order] = np.arange(len(distinct), dtype=np.int32)
        place[-1] = -1
        return distinct[order].astype(np.int64), place[back]
    first = np.full(size + 1, n, dtype=np.int64)
    first[codes[::-1]] = np.arange(n - 1, -1, -1)
    first[-1] = n
    found = np.flatnonzero(first < n)
    found = found[np.argsort(first[found])]
    place = np.full(size + 1, -1, dtype=np.int32)
    place[found] = np.arange(len(found), dtype=np.int32)
    return found, place[codes]
