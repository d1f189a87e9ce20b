"""A set of 64-bit ids, as a table in numpy: many at once, and in half the memory that Python's set takes."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Hashes, Ints

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
"""Odd; spreads ids that are near each other (Knuth, The Art of Computer Programming 3, 6.4: Fibonacci hashing)."""
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
        self._count = 0
        self._zero = False
        """Whether the id 0 is there, which in the table marks a free slot."""
        if ids is not None:
            self.add(ids)

    def __len__(self) -> int:
        return self._count

    def add(self, ids: Hashes) -> NDArray[np.bool_]:
        """Add ids; return which of them were new, of equal ones the first, shape (n,)."""
        if not np.logical_and.reduce(ids):
            return self._add_zero(ids)
        if 2 * (self._count + len(ids)) > len(self._table):
            self._grow(2 * (self._count + len(ids)))
        fresh = np.zeros(len(ids), np.bool_)
        if len(ids) > FEW:
            ordered = np.sort(ids)
            if np.logical_or.reduce(ordered[1:] == ordered[:-1]):
                first = np.unique(ids, return_index=True)[1]
                own = np.zeros(len(first), np.bool_)
                self._put(ids.take(first), own)
                fresh[first] = own
                self._count += int(np.count_nonzero(own))
                return fresh
        self._put(ids, fresh)
        self._count += int(np.count_nonzero(fresh))
        return fresh

    def _add_zero(self, ids: Hashes) -> NDArray[np.bool_]:
        """Add ids of which one is 0 at least."""
        others = ids != 0
        fresh = np.zeros(len(ids), np.bool_)
        fresh[others] = self.add(ids[others])
        if not self._zero:
            fresh[int(np.argmin(others))] = self._zero = True
            self._count += 1
        return fresh

    def _put(self, ids: Hashes, fresh: NDArray[np.bool_]) -> None:
        """Put ids, more than :data:`FEW` only if they are distinct, and note which of them were new."""
        table, last = self._table, len(self._table) - 1
        slots: Ints = (ids * _MIX >> np.uint64(64 - self._bits)).view(np.int64)
        rows: Ints | None = None
        while len(slots) > FEW:
            held = table.take(slots)
            free = (held == 0).nonzero()[0]
            # Of several that want a slot, one gets it: the one that is read there afterwards.
            wanted, mine = slots.take(free), ids.take(free)
            table[wanted] = mine
            won = free[table.take(wanted) == mine]
            fresh[won if rows is None else rows.take(won)] = True
            # The others are there already, or go on to the next slot.
            others = held != ids
            others[won] = False
            left = others.nonzero()[0]
            slots, ids = slots.take(left) + 1 & last, ids.take(left)
            rows = left if rows is None else rows.take(left)
        places = range(len(slots)) if rows is None else rows.tolist()
        for row, slot, number in zip(places, slots.tolist(), ids.tolist(), strict=True):
            place = slot
            while (held_id := table.item(place)) and held_id != number:
                place = (place + 1) & last
            if not held_id:
                table[place] = number
                fresh[row] = True

    def _grow(self, size: int) -> None:
        held = self._table[self._table != 0]
        self._bits = max(self._bits, (size - 1).bit_length() + 1)
        self._table = np.zeros(1 << self._bits, np.uint64)
        self._put(held, np.zeros(len(held), np.bool_))
