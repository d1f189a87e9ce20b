"""Rows found by a 64-bit hash, all at once: open addressing with linear probing, in numpy."""

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Codes, Hashes, Ints

FIRST = 1024
"""Slots of a new index."""
_FREE = -1


class HashIndex:
    """Numbers hashes in the order in which they come, and finds the numbers of equal ones.

    Hashes must be well mixed: their lowest bits say where they go. At most half of the slots are in use, so that few
    steps find a hash, or that it is not there. Several numbers may have one hash.
    """

    def __init__(self) -> None:
        self._slots: Codes = np.full(FIRST, _FREE, np.int32)
        self._hashes: Hashes = np.empty(FIRST // 2, np.uint64)
        self._count = 0

    def __len__(self) -> int:
        """Return how many hashes it has."""
        return self._count

    @property
    def hashes(self) -> Hashes:
        """All hashes by their numbers; a view."""
        return self._hashes[: self._count]

    def add(self, hashes: Hashes) -> None:
        """Give the next numbers to hashes, shape (n,)."""
        first, self._count = self._count, self._count + len(hashes)
        if self._count > len(self._hashes):
            size = len(self._slots)
            while self._count > size // 2:
                size *= 2
            before, self._hashes = self._hashes[:first], np.empty(size // 2, np.uint64)
            self._hashes[:first] = before
            self._slots = np.full(size, _FREE, np.int32)
            first = 0
        self._hashes[self._count - len(hashes) : self._count] = hashes
        self._place(first)

    def find(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """Return every pair of a place among some hashes and a number that has the same hash, in no order."""
        left = np.arange(len(hashes))
        slots = self._home(hashes)
        places, numbers = [left[:0]], [left[:0]]
        while len(left):
            found = self._slots.take(slots)
            used = found >= 0
            left, slots, found = left[used], slots[used], found[used]
            same = self._hashes.take(found) == hashes.take(left)
            if same.any():
                places.append(left[same])
                numbers.append(found[same].astype(np.int64))
            slots = (slots + 1) & (len(self._slots) - 1)
        return np.concatenate(places), np.concatenate(numbers)

    def _place(self, first: int) -> None:
        """Put numbers from *first* on into slots."""
        left = np.arange(first, self._count, dtype=np.int32)
        slots = self._home(self._hashes[first : self._count])
        while len(left):
            free = self._slots.take(slots) < 0
            # Where several want one slot the last gets it; the others look further, as those do that found it taken.
            self._slots[slots[free]] = left[free]
            moves = self._slots.take(slots) != left
            left, slots = left[moves], (slots[moves] + 1) & (len(self._slots) - 1)

    def _home(self, hashes: Hashes) -> NDArray[np.int64]:
        return (hashes & np.uint64(len(self._slots) - 1)).view(np.int64)
