"""Area under the ROC curve from counts by score: bounded, mergeable, exact until there are many distinct scores."""

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Bytes, Floats, Ints
from streamapp.core.monitoring import packing

POINTS: Final = 4096
"""Distinct scores kept apart; beyond, neighbours are joined."""
CELLS: Final = 1536
"""Points left, at most, when neighbours have been joined."""
BUFFER: Final = 2048
"""Rows taken before they are sorted in."""


class Ranking:
    """Counts of positives and negatives by score.

    Until there are more than :data:`POINTS` distinct scores, the area is exact. Then neighbours are joined that lie in
    the same of :data:`CELLS` cells of equal weight, where positives together weigh as much as negatives: so it neither
    matters where in [0, 1] the scores crowd nor how rare positives are. Pairs within a point count half. The points
    hold at most some 3 / CELLS of the weight each, so that ties they invent move the area by less than 0.001 (as in a
    merging t-digest: Dunning and Ertl, Computing extremely accurate quantiles using t-digests, arXiv 1902.04023).
    What follows depends on the rows and their order, not on how they are cut into batches.
    """

    def __init__(self) -> None:
        self._score: Floats = np.empty(0)
        self._positive: Ints = np.empty(0, np.int64)
        self._negative: Ints = np.empty(0, np.int64)
        self._new = np.empty(0)
        self._new_truth: Bytes = np.empty(0, np.uint8)
        self._filled = 0

    def add(self, score: Floats, truth: Floats) -> None:
        """Count rows: finite scores, and 1.0 for positives or 0.0, both of shape (n,)."""
        start, n = 0, len(score)
        while start < n:
            # Small at first: most groups of most models never see many rows.
            if self._filled + min(n - start, BUFFER) > len(self._new) and len(self._new) < BUFFER:
                self._grow(self._filled + n - start)
            end = min(n, start + len(self._new) - self._filled)
            size = end - start
            self._new[self._filled : self._filled + size] = score[start:end]
            self._new_truth[self._filled : self._filled + size] = truth[start:end]
            self._filled += size
            start = end
            if self._filled == BUFFER:
                self._score, self._positive, self._negative = self._all()
                self._filled = 0

    def merge(self, other: "Ranking") -> None:
        """Add the counts of another; its state stays as it is."""
        mine, theirs = self._all(), other._all()
        self._score, self._positive, self._negative = _compress(
            *_combine(*(np.concatenate((a, b)) for a, b in zip(mine, theirs, strict=True)))
        )
        self._filled = 0

    def area(self) -> float | None:
        """Return the area under the ROC curve, None unless there are positives and negatives."""
        _, positive, negative = self._all()
        positives, negatives = int(positive.sum()), int(negative.sum())
        if not positives or not negatives:
            return None
        below = np.cumsum(negative) - negative
        return float(np.dot(positive, below + 0.5 * negative)) / (float(positives) * float(negatives))

    def snapshot(self) -> bytes:
        """Return the state, for :meth:`restore`."""
        columns = (self._score, self._positive, self._negative)
        new = (self._new[: self._filled], self._new_truth[: self._filled].astype(np.int64))
        return msgspec.msgpack.encode(tuple(packing.pack(column) for column in (*columns, *new)))

    @classmethod
    def restore(cls, data: bytes) -> "Ranking":
        """Return what made this snapshot."""
        score, positive, negative, new, new_truth = msgspec.msgpack.decode(data, type=tuple[bytes, ...])
        ranking = cls()
        ranking._score = packing.floats(score)
        ranking._positive, ranking._negative = packing.ints(positive), packing.ints(negative)
        ranking.add(packing.floats(new), packing.floats(new_truth))
        return ranking

    def _grow(self, wanted: int) -> None:
        size = min(BUFFER, max(64, 2 * wanted))
        new, new_truth = np.empty(size), np.empty(size, np.uint8)
        new[: self._filled] = self._new[: self._filled]
        new_truth[: self._filled] = self._new_truth[: self._filled]
        self._new, self._new_truth = new, new_truth

    def _all(self) -> tuple[Floats, Ints, Ints]:
        truth = self._new_truth[: self._filled].astype(np.int64)
        return _compress(
            *_combine(
                np.concatenate((self._score, self._new[: self._filled])),
                np.concatenate((self._positive, truth)),
                np.concatenate((self._negative, 1 - truth)),
            )
        )


def _combine(score: Floats, positive: Ints, negative: Ints) -> tuple[Floats, Ints, Ints]:
    """Sort by score and add up the counts of equal scores."""
    if not len(score):
        return score, positive, negative
    # Stable, since that is quick where the beginning is in order already.
    order = score.argsort(kind="stable")
    score = score.take(order)
    first = _starts(score)
    return score.take(first), _sums(positive.take(order), first), _sums(negative.take(order), first)


def _starts(column: NDArray[Any]) -> Ints:
    """Return where a stretch of equal items begins."""
    starts = np.empty(len(column), np.bool_)
    starts[0] = True
    np.not_equal(column[1:], column[:-1], out=starts[1:])
    return starts.nonzero()[0]


def _sums(counts: Ints, first: Ints) -> Ints:
    """Return the sums of stretches, by where they begin."""
    # Of integers, running sums are exact; and reduceat takes twice as long where stretches are short.
    upto = np.add.accumulate(counts)
    ends = np.empty(len(first), np.int64)
    np.subtract(first[1:], 1, out=ends[:-1])
    ends[-1] = len(counts) - 1
    upto = upto.take(ends)
    upto[1:] -= upto[:-1].copy()
    return upto


def _compress(score: Floats, positive: Ints, negative: Ints) -> tuple[Floats, Ints, Ints]:
    """Join neighbours if there are too many points."""
    if len(score) <= POINTS:
        return score, positive, negative
    weight = positive / max(int(positive.sum()), 1) + negative / max(int(negative.sum()), 1)
    middle = np.cumsum(weight) - 0.5 * weight
    cell = (middle * (CELLS / weight.sum())).astype(np.int64)
    first = _starts(cell)
    centre = np.add.reduceat(score * weight, first) / np.add.reduceat(weight, first)
    last = np.concatenate((first[1:] - 1, [len(score) - 1]))
    # Rounding must not carry a point past its neighbours.
    centre = np.clip(centre, score[first], score[last])
    return centre, _sums(positive, first), _sums(negative, first)
