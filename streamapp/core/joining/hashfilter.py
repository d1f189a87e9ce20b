"""Tells of most hashes, at little cost, that they are not among those that were added: a Bloom filter.

Source: B. H. Bloom, Space/time trade-offs in hash coding with allowable errors, CACM 13 (1970). With a byte for each
bit: numpy then sets and reads them without a loop.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Hashes, Ints

FIRST = 1 << 14
"""Bytes of a new filter."""
ROOM = 16
"""Bytes for each hash, at least: of hashes that were not added, at most one in 150 looks as if it was."""
_SHIFTS = tuple(map(np.uint64, (0, 21, 42)))
"""Which bits of a hash say each of its places."""


class HashFilter:
    """Three bytes are set for each hash, at places that its parts say."""

    def __init__(self) -> None:
        self._marks = np.zeros(FIRST, np.uint8)
        self._count = 0

    @property
    def crowded(self) -> bool:
        """Whether so many were added that it should be made anew."""
        return ROOM * self._count > len(self._marks)

    def __len__(self) -> int:
        """Return how many hashes were added since it was made anew."""
        return self._count

    def add(self, hashes: Hashes) -> None:
        """Add hashes."""
        self._count += len(hashes)
        for places in self._places(hashes):
            self._marks[places] = 1

    def may_have(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return which hashes may have been added; where it says no, none was. Shape (n,)."""
        first, second, third = (self._marks.take(places) for places in self._places(hashes))
        return (first & second & third).view(np.bool_)

    def renew(self, parts: Iterable[Hashes], count: int) -> None:
        """Begin anew with the hashes of some parts, *count* in all, and room for a quarter more at least."""
        size = FIRST
        while size < ROOM * (count + count // 4):
            size *= 2
        self._marks = np.zeros(size, np.uint8)
        self._count = 0
        for hashes in parts:
            self.add(hashes)

    def _places(self, hashes: Hashes) -> Iterator[Ints]:
        mask = np.uint64(len(self._marks) - 1)
        for shift in _SHIFTS:
            yield ((hashes >> shift) & mask).view(np.int64)
