"""Sets of offsets in pages, so that a checkpoint writes only the pages that changed.

A page holds the offsets of one range of 65 536 as a Roaring bitmap (Lemire et al.: Roaring bitmaps: implementation
of an optimized software library, Software: Practice and Experience 48, 2018): 8 kB at most.
"""

from array import array
from collections.abc import Iterator, Mapping

import numpy as np
from pyroaring import BitMap

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
        self._added: list[int] = []
        self._discarded: list[int] = []
        # Bound once: these are called for every record.
        self.add = self._added.append
        self.discard = self._discarded.append

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

    def changes(self) -> dict[bytes, bytes | None]:
        """Let additions and discards take effect; return the pages that changed, None for those now empty."""
        changed: set[int] = set()
        for number, part in _by_page(self._added):
            self._pages.setdefault(number, BitMap()).update(part)
            changed.add(number)
        for number, part in _by_page(self._discarded):
            self._pages.setdefault(number, BitMap()).difference_update(BitMap(part))
            changed.add(number)
        self._added.clear()
        self._discarded.clear()
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

    def between(self, first: int, last: int) -> set[int]:
        """Return the offsets from *first* to *last*, both included."""
        found: set[int] = set()
        for number in range(first >> BITS, (last >> BITS) + 1):
            page = self._pages.get(number)
            if page is not None:
                start = number << BITS
                part = page & BitMap(range(max(first - start, 0), min(last - start + 1, 1 << BITS)))
                found.update(start + offset for offset in part)
        return found

    def __iter__(self) -> Iterator[int]:
        """Yield the offsets, lowest first."""
        for number in sorted(self._pages):
            start = number << BITS
            for offset in self._pages[number]:
                yield start + offset

    def __len__(self) -> int:
        return sum(map(len, self._pages.values()))

    def lowest(self) -> int | None:
        """Return the lowest offset, None if the set is empty."""
        if not self._pages:
            return None
        number = min(self._pages)
        return (number << BITS) + int(self._pages[number].min())

    def _key(self, number: int) -> bytes:
        return f"{self._prefix}{number}".encode()


def _by_page(offsets: list[int]) -> Iterator[tuple[int, "array[int]"]]:
    """Yield (page, places in it) of some offsets."""
    if not offsets:
        return
    numbers = np.array(offsets, dtype=np.int64)
    numbers.sort()
    pages = numbers >> BITS
    starts = np.flatnonzero(np.diff(pages, prepend=-1))
    places = (numbers & 0xFFFF).astype(np.uint32)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
        yield int(pages[start]), array("I", places[start:end].tobytes())
