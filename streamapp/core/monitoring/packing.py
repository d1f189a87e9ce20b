"""Columns of numbers as bytes, for checkpoints: little-endian, in the smallest type that holds them exactly."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.errors import CheckpointError

_TYPES = {b"0": "<f8", b"B": "<u1", b"I": "<u4", b"q": "<i8", b"d": "<f8", b"Q": "<u8"}


def pack(column: NDArray[Any]) -> bytes:
    """Return a column of floats, int64 or uint64, shape (n,), as a type letter and its items."""
    if column.dtype.kind == "u":
        return b"Q" + column.astype("<u8", copy=False).tobytes()
    if column.dtype.kind == "f":
        return _pack_floats(column)
    largest = int(np.maximum.reduce(column, initial=0))
    if largest >= 2**32 or np.minimum.reduce(column, initial=0) < 0:
        return b"q" + column.astype("<i8", copy=False).tobytes()
    return b"B" + column.astype("<u1").tobytes() if largest < 256 else b"I" + column.astype("<u4").tobytes()


def _pack_floats(column: NDArray[np.float64]) -> bytes:
    if not len(column):
        return b"00"
    first = column.item(0)
    # The first item tells of most columns that there is nothing to be looked for in the others.
    if first != first and np.isnan(column).all():
        return b"0" + str(len(column)).encode()
    whole = 0.0 <= first <= 255.0 and first.is_integer()
    if whole and np.minimum.reduce(column) >= 0.0 and np.maximum.reduce(column) <= 255.0:
        small = column.astype("<u1")
        if (small == column).all() and not np.signbit(column).any():
            return b"B" + small.tobytes()
    return b"d" + column.astype("<f8", copy=False).tobytes()


def floats(data: bytes) -> NDArray[np.float64]:
    """Return a column of floats that :func:`pack` made.

    Raises:
        CheckpointError: The bytes are not such a column.
    """
    if data[:1] == b"0":
        # It says how many there are without having them: eight digits are more than any column has.
        if not data[1:].isdigit() or len(data) > 9:
            raise CheckpointError(f"expected a packed column, got {len(data)} bytes that say how many are missing")
        return np.full(int(data[1:]), np.nan)
    return _items(data).astype(np.float64)


def ints(data: bytes) -> NDArray[np.int64]:
    """Return a column of int64 that :func:`pack` made; raises as :func:`floats`."""
    return _items(data).astype(np.int64)


def hashes(data: bytes) -> NDArray[np.uint64]:
    """Return a column of uint64 that :func:`pack` made; raises as :func:`floats`."""
    return _items(data).astype(np.uint64)


def _items(data: bytes) -> NDArray[Any]:
    try:
        return np.frombuffer(data[1:], _TYPES[data[:1]])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"expected a packed column, got {len(data)} bytes of type {data[:1]!r}") from error
