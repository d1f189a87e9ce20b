"""Sets of offsets in pages, so that a checkpoint writes only the pages that changed.

A page holds the offsets of one range of 65 536 as a Roaring bitmap (Lemire et al.: Roaring bitmaps: implementation
of an optimized software library, Software: Practice and Experience 48, 2018): 8 kB at most.
"""

from array import array
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from streamapp.core.events import Ints
from streamapp.errors import CheckpointError

BITS = 16


class Pages:
    """Offsets that were added and not discarded yet.

    Additions and discards take effect together at :meth:`changes`; an offset is added at most once.

    Args:
        name: First part of the keys.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}/"
        self._pages: dict[int, BitMap] = {}
        self._stored: set[int] = set()
        """Pages that the checkpoint has."""
        self._added: list[Ints] = []
        self._discarded: list[Ints] = []
        self._added_singly: list[int] = []
        self._discarded_singly: list[int] = []

    @classmethod
    def restore(cls, name: str, entries: Mapping[bytes, bytes]) -> "Pages":
        """Return the set that the entries of a checkpoint hold.

        Raises:
            CheckpointError: A page cannot be read.
        """
        pages = cls(name)
        for key, value in entries.items():
            text = key.decode(errors="replace")
            if not text.startswith(pages._prefix):
                continue
            try:
                bitmap = BitMap.deserialize(value)
                number = int(text.removeprefix(pages._prefix))
            except (ValueError, IndexError) as error:
                raise CheckpointError(f"checkpoint entry {text!r} is not a page of offsets: {error}") from error
            if len(bitmap) and bitmap.max() >> BITS:
                raise CheckpointError(f"checkpoint entry {text!r} holds offsets outside of its page")
            if len(bitmap):
                pages._pages[number] = bitmap
                pages._stored.add(number)
        return pages

    def add(self, offset: int) -> None:
        """Add an offset."""
        self._added_singly.append(offset)

    def discard(self, offset: int) -> None:
        """Discard an offset."""
        self._discarded_singly.append(offset)

    def add_all(self, offsets: Ints) -> None:
        """Add offsets."""
        self._added.append(offsets)

    def discard_all(self, offsets: Ints) -> None:
        """Discard offsets."""
        self._discarded.append(offsets)

    def changes(self) -> dict[bytes, bytes | None]:
        """Let additions and discards take effect; return the pages that changed, None for those now empty."""
        changed: set[int] = set()
        for number, part in _by_page(self._added, self._added_singly):
            self._pages.setdefault(number, BitMap()).update(part)
            changed.add(number)
        for number, part in _by_page(self._discarded, self._discarded_singly):
            self._pages.setdefault(number, BitMap()).difference_update(BitMap(part))
            changed.add(number)
        for taken in (self._added, self._added_singly, self._discarded, self._discarded_singly):
            taken.clear()
        entries: dict[bytes, bytes | None] = {}
        for number in sorted(changed):
            page = self._pages[number]
            if page:
                entries[self._key(number)] = page.serialize()
                self._stored.add(number)
            else:
                del self._pages[number]
                if number in self._stored:
                    self._stored.remove(number)
                    entries[self._key(number)] = None
        return entries

    def holds(self, offsets: Ints) -> NDArray[np.bool_]:
        """Return which of some rising offsets are in the set, as it was at the last :meth:`changes`."""
        found = np.zeros(len(offsets), dtype=np.bool_)
        for number, start, end in _pages(offsets):
            page = self._pages.get(number)
            if page is not None:
                inside = np.zeros(1 << BITS, dtype=np.bool_)
                inside[np.asarray(page.to_array(), dtype=np.int64)] = True
                found[start:end] = inside[offsets[start:end] & 0xFFFF]
        return found

    def offsets(self) -> Ints:
        """Return all offsets, lowest first, as of the last :meth:`changes`."""
        parts = [
            (number << BITS) + np.asarray(self._pages[number].to_array(), dtype=np.int64)
            for number in sorted(self._pages)
        ]
        return np.concatenate(parts) if parts else _NONE

    def __len__(self) -> int:
        return sum(map(len, self._pages.values()))

    def lowest(self, start: int = 0) -> int | None:
        """Return the lowest offset from *start* on, None if there is none."""
        first = start >> BITS
        for number in sorted(number for number in self._pages if number >= first):
            page = self._pages[number]
            skip = start - (number << BITS)
            if skip <= page.max():
                return (number << BITS) + int(page.next_set_bit(max(skip, 0)))
        return None

    def _key(self, number: int) -> bytes:
        return f"{self._prefix}{number}".encode()


def _by_page(offsets: list[Ints], singly: list[int]) -> Iterator[tuple[int, "array[int]"]]:
    """Yield (page, places in it) of some offsets."""
    numbers = np.concatenate([*offsets, np.array(singly, dtype=np.int64)])
    if (np.diff(numbers) < 0).any():
        numbers = np.sort(numbers)
    places = (numbers & 0xFFFF).astype(np.uint32)
    for number, start, end in _pages(numbers):
        yield number, array("I", places[start:end].tobytes())


def _pages(offsets: Ints) -> Iterator[tuple[int, int, int]]:
    """Yield (page, first place, place behind the last) of rising offsets."""
    if not len(offsets):
        return
    pages = offsets >> BITS
    starts = np.flatnonzero(np.diff(pages, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(offsets)], strict=True):
        yield int(pages[start]), start, end


_NONE = np.empty(0, np.int64)
