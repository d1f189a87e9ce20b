"""The newest rows of a group."""

import msgspec
import numpy as np

from streamapp.core.events import Floats, Ints
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
        self._columns = np.empty((len(_STORED), 64))
        """Of the block, those from which the others follow."""
        self._start = self._end = 0

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self._end - self._start

    def block(self, task: Task) -> Floats:
        """Return the rows, oldest first, shape (COLUMNS, n)."""
        block = np.full((COLUMNS, len(self)), np.nan)
        block[list(_STORED)] = self._columns[:, self._start : self._end]
        fill(task, block)
        return block

    def add(self, block: Floats, rows: Ints) -> None:
        """Take those of a block's rows, shape (COLUMNS, n), that lie at these places."""
        self._add(block[np.array(_STORED)[:, None], rows[-self._rows :]])

    def _add(self, columns: Floats) -> None:
        columns = columns[:, max(0, columns.shape[1] - self._rows) :]
        count = columns.shape[1]
        if self._end + count > self._columns.shape[1]:
            kept = self._columns[:, max(self._start, self._end + count - self._rows) : self._end]
            # Room for as many again, so that rows are rarely moved.
            wider = np.empty((len(_STORED), max(64, 2 * (kept.shape[1] + count))))
            wider[:, : kept.shape[1]] = kept
            self._columns, self._start, self._end = wider, 0, kept.shape[1]
        self._columns[:, self._end : self._end + count] = columns
        self._end += count
        self._start = max(self._start, self._end - self._rows)

    def snapshot(self, task: Task) -> bytes:
        """Return the rows, for :meth:`load`."""
        columns = self._columns[:, self._start : self._end]
        if task != "multiclass":
            columns = columns.copy()
            columns[_STORED.index(SOFT)] = np.nan  # it follows from the others
        return msgspec.msgpack.encode([packing.pack(column) for column in columns])

    def load(self, data: bytes) -> None:
        """Take over rows; those beyond the configured number are dropped."""
        self._add(np.stack([packing.floats(column) for column in msgspec.msgpack.decode(data, type=list[bytes])]))
