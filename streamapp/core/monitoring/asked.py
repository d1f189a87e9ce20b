"""Rows that ask baselines what was known, and tell what becomes known, in pieces that do so at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Floats, Hashes, Ints, Names


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Joined rows of one model in the order in which they were resolved; all columns have shape (n,)."""

    time: Floats
    """Log time of the prediction: what is asked is what was known before it."""
    truth: Floats
    """As in a block; nan where the outcome is not known to baselines."""
    scored: Floats
    """The same, but nan also where the row counts for no metric."""
    known: Floats
    """Log time of the outcome."""
    ids: Hashes
    series: Names
    incumbent: Floats
    """Configured loss of rows of the control group, nan in other rows."""
    challenges: NDArray[np.bool_]
    """Which rows ask for the incumbent's loss; the answer to the others is nan."""


class Piece:
    """Some of the rows that were asked about; all columns have shape (n,)."""

    def __init__(self, asked: Asked, start: int, end: int) -> None:
        self.time, self.known = asked.time[start:end], asked.known[start:end]
        self.truth, self.scored = asked.truth[start:end], asked.scored[start:end]
        self.ids, self.incumbent = asked.ids[start:end], asked.incumbent[start:end]
        self.words, self.series = asked.series.words, asked.series.code[start:end]
        in_series = self.series >= 0
        self.in_series = in_series if self.words and in_series.any() else None
        """Which rows have a series, None if none has."""
        told = np.logical_not(np.isnan(self.incumbent))
        self.told = told if told.any() else None
        """Which rows tell what the incumbent lost, likewise."""
        self._challengers = np.flatnonzero(asked.challenges[start:end])

    def __len__(self) -> int:
        return len(self.time)

    def challengers(self, start: int, end: int) -> Ints:
        """Return those of some rows that ask for the incumbent's loss."""
        first, last = np.searchsorted(self._challengers, (start, end))
        return self._challengers[first:last]


class Answers:
    """What rows of a piece could know; nan where that was nothing.

    Args:
        n: Rows.
        width: Sums of each.
    """

    def __init__(self, n: int, width: int) -> None:
        self.sums: Floats = np.empty((n, width))
        self.incumbent: Floats = np.full(n, np.nan)
        self._columns: dict[int, Floats] = {}

    def of(self, baseline: int) -> Floats:
        """Return the column of a baseline by its place in the plan, shape (n,)."""
        column = self._columns.get(baseline)
        if column is None:
            column = self._columns[baseline] = np.full(len(self.sums), np.nan)
        return column


def stretches(piece: Piece) -> Iterator[tuple[int, int, bool]]:
    """Cut rows so that within a stretch no row knows itself or a later one, were all made known at once.

    Yields start, end, and whether the one row must ask before it is made known, since it would know itself.
    """
    # What a row tells is known to nobody where it tells nothing.
    silent = np.isnan(piece.truth) & np.isnan(piece.incumbent)
    known = np.where(silent, np.inf, piece.known)
    start, n = 0, len(piece)
    if not np.logical_or.reduce(known < np.maximum.accumulate(piece.time)):
        yield start, n, False
        return
    newest = -np.inf
    """Of the log times of predictions in the stretch."""
    for row, (told, asked) in enumerate(zip(known.tolist(), piece.time.tolist(), strict=True)):
        if told < newest:
            yield start, row, False
            start, newest = row, -np.inf
        if told < asked:
            if start < row:
                yield start, row, False
            yield row, row + 1, True
            start, newest = row + 1, -np.inf
        elif asked > newest:
            newest = asked
    if start < n:
        yield start, n, False
