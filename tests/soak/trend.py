"""Whether a series grows: a slope that outliers do not move, with an interval that allows for autocorrelation.

The series is cut into blocks of equal length, of which the medians are kept: what swings faster than a block does not
count. The slope is the median of the slopes between all pairs of them (Theil 1950, Sen 1968), the interval is Sen's,
from the distribution of Kendall's S. Memory moves in steps, so neighbouring blocks are alike, which makes S vary more
than it does for independent values: its variance is multiplied by (1 + r) / (1 - r) (Bayley and Hammersley 1946), r
being the first autocorrelation of the ranks of what is left without the slope. Estimated from few values it is too low;
it is corrected by (n r + 2) / (n - 4) (van Giersbergen 2005, as in Hamed, "Enhancing the effectiveness of prewhitening
in trend analysis of hydrologic data", Journal of Hydrology 368, 2009).

How often it sees growth where there is none, of 300 autoregressive series each, at the level of 99 % (both sides): none
to 2 % where the correlation lasts for up to a tenth of the series, 2 to 4 % up to a random walk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCKS = 24
FEWEST = 8
"""Blocks below which nothing is said."""
MOST_CORRELATED = 0.95
"""A random walk: no correction is large enough for it, this one is for most."""
LEVEL = 0.99
"""Of the interval, both sides together."""


@dataclass(frozen=True)
class Trend:
    """How a series moves, in its unit a second."""

    slope: float
    low: float
    """End of the interval; -inf where there are too few values to tell."""
    high: float
    blocks: int
    inflation: float
    """What autocorrelation multiplied the variance by."""

    @property
    def grows(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0


def trend(
    at: Sequence[float] | Floats, values: Sequence[float] | Floats, *, blocks: int = BLOCKS, level: float = LEVEL
) -> Trend:
    """Return the slope of a series.

    Args:
        at: Seconds, ascending; they may have gaps.
        values: At these.
        blocks: Of equal length that the series is cut into.
        level: Probability that the interval holds the slope.

    Raises:
        ValueError: Fewer than :data:`FEWEST` blocks have a value.
    """
    x, y = _medians(np.asarray(at, float), np.asarray(values, float), blocks)
    n = len(x)
    if n < FEWEST:
        raise ValueError(f"expected values in {FEWEST} blocks or more, found them in {n} of {blocks}")
    first, second = np.triu_indices(n, 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    slope = float(np.median(slopes))
    inflation = _inflation(y - slope * x)
    spread = NormalDist().inv_cdf((1 + level) / 2) * sqrt(inflation * n * (n - 1) * (2 * n + 5) / 18)
    # Places in the sorted slopes, from 1 (Sen 1968; Gilbert 1987, section 16.5).
    below = int((len(slopes) - spread) // 2)
    low, high = (float(slopes[below - 1]), float(slopes[len(slopes) - below])) if below >= 1 else (-inf, inf)
    return Trend(slope, low, high, n, inflation)


def _medians(at: Any, values: Any, blocks: int) -> tuple[Any, Any]:
    """Return the middles of blocks that have values, and their medians."""
    if not len(at):
        return at, values
    edges = np.linspace(at[0], at[-1], blocks + 1)
    block = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, blocks - 1)
    found = [number for number in range(blocks) if (block == number).any()]
    middles = (edges[:-1] + edges[1:]) / 2
    return middles[found], np.array([np.median(values[block == number]) for number in found])


def _inflation(rest: Any) -> float:
    """Return what the variance of Kendall's S is multiplied by for the autocorrelation of the ranks."""
    n = len(rest)
    ranks = _ranks(rest)
    ranks -= ranks.mean()
    power = float(ranks @ ranks)
    if power == 0:
        return 1.0
    first = float(ranks[1:] @ ranks[:-1]) / power
    first = min(max((n * first + 2) / (n - 4), 0.0), MOST_CORRELATED)
    return (1 + first) / (1 - first)


def _ranks(values: Any) -> Any:
    """Return ranks, those of equal values averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
