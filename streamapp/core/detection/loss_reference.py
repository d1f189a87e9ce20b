"""What "normal" is: the mean loss over a reference period, with bounds that hold its uncertainty."""

import math
from dataclasses import dataclass

import numpy as np
from msgspec import Struct, field

from streamapp.core.events import Floats
from streamapp.core.settings import ModelSettings

BLOCK = 16
"""Rows of the smallest block whose mean is looked at."""
SCALES = tuple(BLOCK << level for level in range(0, 17, 2))
"""Rows of the blocks from which the standard error is taken: 16, 64, 256, ..."""
SEGMENTS = 64
"""Means over time that are kept, to find the worst recurring stretch."""
CHECK = 128
"""Past ``reference_rows``, rows between two looks whether the reference suffices."""
HELD = 128
"""Rows that are summed in one go, at most: less often is cheaper."""
PATIENCE = 20
"""A reference that lacks errors is taken as it is after so many times ``reference_rows``."""
EFFECTIVE_ERRORS = 50
CONFIDENCE = 1.645
"""One-sided 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal:
    """A finished reference."""

    mean: float
    rows: int
    upper: float
    """Upper bound of the mean loss, what an upward detector tests against."""
    lower: float
    """Lower bound of the mean loss, likewise downward."""
    dispersion: float
    """Variance of the means of 16 or 64 rows over what independent rows would have; at least 1."""
    sparse: bool
    """It held fewer than 50 effective errors."""


class Sums(Struct):
    """All that a reference remembers, of any number of rows."""

    rows: int = 0
    """In whole blocks; the rest lies in ``buffer``, fewer than :data:`HELD`."""
    total: float = 0.0
    square: float = 0.0
    first: float = math.inf
    last: float = -math.inf
    buffer: list[float] = field(default_factory=list)
    partial: list[float] = field(default_factory=lambda: [0.0] * len(SCALES))
    """Per scale, sum of the block that is not complete."""
    blocks: list[int] = field(default_factory=lambda: [0] * len(SCALES))
    means: list[float] = field(default_factory=lambda: [0.0] * len(SCALES))
    """Per scale, sum of the block means; then of their squares."""
    squares: list[float] = field(default_factory=lambda: [0.0] * len(SCALES))
    segments: list[float] = field(default_factory=list)
    """Sums over equal stretches in order of arrival."""
    segment_rows: int = BLOCK
    segment: float = 0.0


class LossReference:
    """Collect losses until the mean is known well enough.

    It is, with at least ``reference_rows`` rows (times the over-dispersion of correlated losses) that span one
    ``cycle`` of event time and hold 50 effective errors: ``(mean / standard error)**2``, which for independent 0/1
    losses is about the number of errors. After 20 times the rows a reference that still lacks errors is taken with a
    wider bound (Poisson's: three more errors than seen), so that a model that never errs is watched too.

    The standard error is the largest of those from the means of blocks of 16, 64, 256, ... rows, since neighbouring
    losses are rarely independent. Where the mean moves within the reference (a daily cycle), the upper bound is not
    below the worst eighth of it, nor the lower bound above the best.

    Memory does not grow with the rows.
    """

    def __init__(self, settings: ModelSettings, sums: Sums | None = None) -> None:
        self._rows = -(-settings.reference_rows // BLOCK) * BLOCK
        self._cycle = float(settings.cycle) if settings.cycle is not None else 0.0
        self.sums = Sums() if sums is None else sums

    @property
    def insufficient(self) -> bool:
        """Whether there are rows enough, and yet not enough is known."""
        sums = self.sums
        rows = sums.rows + len(sums.buffer) // BLOCK * BLOCK
        return rows >= self._rows and sums.last - sums.first >= self._cycle

    def take(self, losses: Floats, times: Floats) -> int:
        """Take losses up to the next look, and return how many were taken, at least 1 of a non-empty array.

        Where the rows do not span the cycle yet, all are taken: no look could find anything.
        """
        sums = self.sums
        first = min(sums.first, float(np.minimum.reduce(times)))
        last = max(sums.last, float(np.maximum.reduce(times)))
        count = len(losses)
        if last - first >= self._cycle:
            seen = sums.rows + len(sums.buffer)
            look = self._rows if seen < self._rows else seen // CHECK * CHECK + CHECK
            if look - seen < count:
                count = look - seen
                first = min(sums.first, float(np.minimum.reduce(times[:count])))
                last = max(sums.last, float(np.maximum.reduce(times[:count])))
        sums.first, sums.last = first, last
        if len(sums.buffer) + count < HELD:
            sums.buffer += losses[:count].tolist()
        else:
            self._add_up(np.concatenate((sums.buffer, losses[:count])))
        return count

    def normal(self) -> Normal | None:
        """Return the finished reference, or None while it is not: looked at only where :meth:`take` stopped."""
        sums = self.sums
        seen = sums.rows + len(sums.buffer)
        at_look = seen == self._rows or (seen > self._rows and seen % CHECK == 0)
        if not at_look or not self.insufficient:
            return None
        self._add_up(np.array(sums.buffer))
        normal = self._normal()
        if normal.sparse or sums.rows < self._rows * normal.dispersion:
            return normal if sums.rows >= PATIENCE * self._rows else None
        return normal

    def _add_up(self, rows: Floats) -> None:
        """Sum up whole blocks, each in one go: the sums do not depend on how rows came in batches."""
        whole = len(rows) // BLOCK * BLOCK
        blocks = rows[:whole].reshape(-1, BLOCK)
        self.sums.buffer = rows[whole:].tolist()
        totals, squares = np.add.reduce(blocks, axis=1).tolist(), np.add.reduce(np.square(blocks), axis=1).tolist()
        sums = self.sums
        # Once per block, the names of a struct cost as much as the sums.
        seen, partial, blocks_of, means, squares_of = sums.rows, sums.partial, sums.blocks, sums.means, sums.squares
        for total, square in zip(totals, squares, strict=True):
            seen += BLOCK
            sums.total += total
            sums.square += square
            partial = [part + total for part in partial]
            for level, scale in enumerate(SCALES):
                if seen % scale:
                    break  # nor is a larger one complete
                mean = partial[level] / scale
                partial[level] = 0.0
                blocks_of[level] += 1
                means[level] += mean
                squares_of[level] += mean * mean
            sums.segment += total
            if seen % sums.segment_rows == 0:
                self._end_segment()
        sums.rows, sums.partial = seen, partial

    def _end_segment(self) -> None:
        sums = self.sums
        sums.segments.append(sums.segment)
        sums.segment = 0.0
        if len(sums.segments) == SEGMENTS:
            pairs = sums.segments
            sums.segments = [pairs[i] + pairs[i + 1] for i in range(0, SEGMENTS, 2)]
            sums.segment_rows *= 2

    def _normal(self) -> Normal:
        sums = self.sums
        mean = sums.total / sums.rows
        variance = max(sums.square / sums.rows - mean * mean, 0.0)
        error = math.sqrt(max(self._error_squares(variance)))
        dispersion = self._excess(variance)
        effective = math.inf if error == 0.0 and mean > 0.0 else (mean / error) ** 2 if error else 0.0
        sparse = effective < EFFECTIVE_ERRORS
        upper = mean + CONFIDENCE * error + (3.0 * dispersion / sums.rows if sparse else 0.0)
        room = 1.0 - mean
        scarce = room * room < EFFECTIVE_ERRORS * error * error or room == 0.0
        lower = mean - CONFIDENCE * error - (3.0 * dispersion / sums.rows if scarce else 0.0)
        best, worst = self._stretches(mean, variance * dispersion)
        return Normal(
            mean=mean,
            rows=sums.rows,
            upper=min(max(upper, worst), 1.0),
            lower=max(min(lower, best), 0.0),
            dispersion=dispersion,
            sparse=sparse,
        )

    def _excess(self, variance: float) -> float:
        """Return by how much the means of 16 or 64 rows scatter too widely, 1 where that may be chance."""
        found = 1.0
        for level in (0, 1):
            ratio = self._dispersion(level, variance)
            if ratio > 1.0 + 3.0 * math.sqrt(2.0 / max(self.sums.blocks[level] - 1, 1)):
                found = max(found, ratio, self._dispersion(1, variance))
        return found

    def _error_squares(self, variance: float) -> list[float]:
        sums = self.sums
        return [
            variance / sums.rows,
            *(self._dispersion(level, variance) * variance / sums.rows for level in range(len(SCALES))),
        ]

    def _dispersion(self, level: int, variance: float) -> float:
        """Return how much wider the means of one scale scatter than those of independent losses."""
        blocks = self.sums.blocks[level]
        if blocks < 7 or variance == 0.0:
            return 1.0
        mean = self.sums.means[level] / blocks
        scatter = max(self.sums.squares[level] / blocks - mean * mean, 0.0) * blocks / (blocks - 1)
        return scatter * SCALES[level] / variance

    def _stretches(self, mean: float, variance: float) -> tuple[float, float]:
        """Return the lowest and highest mean of eighths of the reference; *mean* twice if they do not differ."""
        sums = self.sums
        width = len(sums.segments) // 8
        if not width or variance == 0.0:
            return mean, mean
        rows = width * sums.segment_rows
        # The oldest segments that fill no eighth are left out.
        kept = np.array(sums.segments[len(sums.segments) - 8 * width :])
        eighths = kept.reshape(8, width).sum(axis=1) / rows
        centre = float(eighths.mean())
        scatter = float(np.square(eighths - centre).sum()) * rows / variance
        # 99 % of the chi-squared distribution with 7 degrees of freedom.
        if scatter < 18.5:
            return mean, mean
        return float(eighths.min()), float(eighths.max())
