"""A set of 64-bit ids, as a table in numpy: many at once, and in half the memory that Python's set takes."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Hashes, Ints

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
"""Odd; spreads ids that are near each other (Knuth, The Art of Computer Programming 3, 6.4: Fibonacci hashing)."""
_ZERO: Final = np.uint64(0xD6E8FEB86659FD93)
"""Stands for the id 0, since 0 marks a free slot."""
FEW: Final = 24
"""Ids that are put in one by one: that is quicker then."""
_SMALLEST: Final = 10
"""Bits of a slot's number in a new table."""


class Ids:
    """Open addressing with linear probing, at most half full.

    Args:
        ids: Those that it holds to begin with.
    """

    def __init__(self, ids: Hashes | None = None) -> None:
        self._bits = _SMALLEST
        self._table: Hashes = np.zeros(1 << _SMALLEST, np.uint64)
        self._claims: NDArray[np.int32] = np.empty(1 << _SMALLEST, np.int32)
        """Scratch: which of the new ids wants a slot."""
        self._count = 0
        if ids is not None:
            self.add(ids)

    def __len__(self) -> int:
        return self._count

    def add(self, ids: Hashes) -> NDArray[np.bool_]:
        """Add ids; return which of them were new, of equal ones the first, shape (n,)."""
        if 2 * (self._count + len(ids)) > len(self._table):
            self._grow(2 * (self._count + len(ids)))
        if not np.logical_and.reduce(ids):
            ids = np.where(ids == 0, _ZERO, ids)
        fresh = np.zeros(len(ids), np.bool_)
        self._put(ids, fresh)
        self._count += int(np.count_nonzero(fresh))
        return fresh

    def _put(self, ids: Hashes, fresh: NDArray[np.bool_]) -> None:
        table, claims, last = self._table, self._claims, len(self._table) - 1
        slots: Ints = (ids * _MIX >> np.uint64(64 - self._bits)).astype(np.int64)
        rows: Ints = np.arange(len(ids))
        while len(rows) > FEW:
            free = (table.take(slots) == 0).nonzero()[0]
            wanted = slots.take(free)
            # Of several that want a slot, the first gets it: the last one written here.
            claims[wanted[::-1]] = free[::-1]
            won = free[claims.take(wanted) == free]
            table[slots.take(won)] = ids.take(won)
            fresh[rows.take(won)] = True
            # The others are there already, or go on to the next slot.
            left = (table.take(slots) != ids).nonzero()[0]
            slots, ids, rows = (slots.take(left) + 1) & last, ids.take(left), rows.take(left)
        for row, slot, number in zip(rows.tolist(), slots.tolist(), ids.tolist(), strict=True):
            place = slot
            while (held := table.item(place)) and held != number:
                place = (place + 1) & last
            if not held:
                table[place] = number
                fresh[row] = True

    def _grow(self, size: int) -> None:
        held = self._table[self._table != 0]
        self._bits = max(self._bits, (size - 1).bit_length() + 1)
        self._table = np.zeros(1 << self._bits, np.uint64)
        self._claims = np.empty(1 << self._bits, np.int32)
        self._put(held, np.zeros(len(held), np.bool_))
