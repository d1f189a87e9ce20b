"""Columns of numbers as bytes, for messages: a type letter (that of :mod:`struct`), then little-endian items.

One item stands for as many rows as there are. Whatever reads a column raises :class:`~streamapp.errors.DecodeError`
where the bytes are not one of so many rows, or ``ValueError`` where they are no whole items.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Ints
from streamapp.errors import DecodeError

REMEMBERED: Final = 4096
"""Columns of one item that are remembered: they are half of all, and the same from message to message."""
_TYPES: Final[dict[bytes, np.dtype[Any]]] = {
    b"B": np.dtype("<u1"),
    b"H": np.dtype("<u2"),
    b"I": np.dtype("<u4"),
    b"q": np.dtype("<i8"),
    b"Q": np.dtype("<u8"),
    b"d": np.dtype("<f8"),
}
_BELOW: Final = [bytes(range(end)) for end in range(257)]


def pack(letter: bytes, column: NDArray[Any]) -> bytes:
    """Return a column as bytes, one item if all are the same."""
    kind = _TYPES[letter]
    size = kind.itemsize
    data = column.astype(kind, copy=False).tobytes()
    # Equal to itself moved by one item: all items are the same, nan included. Most columns differ at their ends.
    if len(data) > size and data[:size] == data[-size:] and data[size:] == data[:-size]:
        return letter + data[:size]
    return letter + data


def pack_counts(column: NDArray[Any]) -> bytes:
    """Pack integers, which are small and not negative as a rule."""
    # A negative one looks like one of the largest.
    largest = int(np.maximum.reduce(column.astype(np.int64, copy=False).view(np.uint64), initial=0))
    letter = b"B" if largest < 2**8 else b"H" if largest < 2**16 else b"I" if largest < 2**32 else b"q"
    return pack(letter, column)


def read(data: bytes, n: int, letters: bytes) -> NDArray[Any]:
    """Return a column that has one of these types, shape (n,); not to be written to."""
    return _remembered(data, n, letters) if alone(data, n) else _read(data, n, letters)


def read_codes(data: bytes, n: int, end: int) -> NDArray[np.uint8]:
    """Return a column of small codes, all below *end*; likewise."""
    codes = read(data, n, b"B")
    if data[1:].translate(None, _BELOW[end]):
        raise DecodeError(f"expected codes below {end}, got {codes.max()}")
    return codes


def read_ints(data: bytes, n: int, less: int) -> Ints:
    """Return a column of integers, *less* subtracted from each; likewise."""
    items = read(data, n, b"BHIq")
    if n and not items.strides[0]:
        return repeated(items[:1].astype(np.int64) - less, n)
    numbers: Ints = items.astype(np.int64)
    numbers -= less
    return numbers


def alone(data: bytes, n: int) -> bool:
    """Tell whether a column of so many rows can only be one item, which makes it worth remembering."""
    return len(data) <= 9 <= n


def repeated(items: NDArray[Any], n: int) -> NDArray[Any]:
    """Return the one item of an array *n* times; it lies in memory once, behind a stride of 0."""
    items.setflags(write=False)
    return np.ndarray((n,), items.dtype, items, 0, (0,))


def _read(data: bytes, n: int, letters: bytes) -> NDArray[Any]:
    letter = data[:1]
    if not letter or letter not in letters:
        raise DecodeError(f"expected a column of type {' or '.join(letters.decode())}, got {letter!r}")
    items = np.frombuffer(data[1:], _TYPES[letter])
    count = len(items)
    if count == n:
        return items
    if count != 1:
        raise DecodeError(f"expected {n} items or 1, got {count}")
    return repeated(items, n)


_remembered = lru_cache(maxsize=REMEMBERED)(_read)
