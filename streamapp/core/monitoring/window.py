"""The newest rows of a group."""

import msgspec
import numpy as np

from streamapp.core.events import Floats
from streamapp.core.losses import ANSWER, COLUMNS, OWN, SCORE, SOFT, TRUTH, fill
from streamapp.core.monitoring import packing
from streamapp.core.settings import Task

_STORED = (TRUTH, ANSWER, SCORE, SOFT, OWN)
"""Columns from which the others follow."""


class Window:
    """The newest rows, as a block.

    Args:
        rows: How many.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._block = np.empty((COLUMNS, 64))
        self._start = self._end = 0

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self._end - self._start

    @property
    def block(self) -> Floats:
        """The rows, oldest first, shape (COLUMNS, n)."""
        return self._block[:, self._start : self._end]

    def add(self, block: Floats) -> None:
        """Take rows, shape (COLUMNS, n)."""
        block = block[:, max(0, block.shape[1] - self._rows) :]
        count = block.shape[1]
        if self._end + count > self._block.shape[1]:
            kept = self.block[:, max(0, len(self) + count - self._rows) :]
            # Room for as many again, so that rows are rarely moved.
            wider = np.empty((COLUMNS, max(64, 2 * (kept.shape[1] + count))))
            wider[:, : kept.shape[1]] = kept
            self._block, self._start, self._end = wider, 0, kept.shape[1]
        self._block[:, self._end : self._end + count] = block
        self._end += count
        self._start = max(self._start, self._end - self._rows)

    def snapshot(self) -> bytes:
        """Return the rows, for :meth:`load`."""
        return msgspec.msgpack.encode([packing.pack(self.block[column]) for column in _STORED])

    def load(self, data: bytes, task: Task) -> None:
        """Take over rows; those beyond the configured number are dropped."""
        columns = [packing.floats(column) for column in msgspec.msgpack.decode(data, type=list[bytes])]
        block = np.full((COLUMNS, len(columns[0])), np.nan)
        for place, column in zip(_STORED, columns, strict=True):
            block[place] = column
        fill(task, block)
        self.add(block)
