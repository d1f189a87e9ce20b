"""Counts of positive numbers in logarithmic bins: mergeable by addition, quantiles within 1 %.

The bins of DDSketch (Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error
guarantees, PVLDB 12, 2019), without collapsing: bin i holds (GAMMA**(i-1), GAMMA**i], and stands for the value that
is off by the same ratio at both ends.
"""

import math
from collections.abc import Mapping

import numpy as np

from streamapp.core.events import Floats, Ints

GAMMA = 1.02
"""Ratio of the ends of a bin; a bin's value is within (GAMMA - 1) / (GAMMA + 1) = 0.99 % of all it holds."""
SMALLEST = 1e-9
"""Smaller values, zero and negative ones are counted in :data:`ZERO`, whose value is 0."""
ZERO = -32_768
"""Number of the bin of zero, below every other."""

_SCALE = 1.0 / math.log(GAMMA)
_LARGEST = float(np.finfo(np.float64).max)
_LOG_LARGEST = math.log(_LARGEST) - 1e-12


def bins(values: Floats) -> Ints:
    """Return the bin of each value, same shape.

    Raises:
        ValueError: A value is nan.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("nan has no bin: leave such rows out, or use count()")
    index = np.ceil(np.log(np.clip(values, SMALLEST, _LARGEST)) * _SCALE).astype(np.int64)
    index[values < SMALLEST] = ZERO
    return index


def count(values: Floats) -> dict[int, int]:
    """Return how many values lie in each bin, lowest bin first; nan are left out."""
    values = np.asarray(values, dtype=np.float64)
    found, counts = np.unique(bins(values[~np.isnan(values)]), return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def merge(a: Mapping[int, int], b: Mapping[int, int]) -> dict[int, int]:
    """Return the counts of both; neither argument is changed."""
    merged = dict(a)
    for index, n in b.items():
        merged[index] = merged.get(index, 0) + n
    return merged


def value(index: int) -> float:
    """Return the value that stands for all in a bin."""
    if index == ZERO:
        return 0.0
    return math.exp(min(index / _SCALE, _LOG_LARGEST)) * (2.0 / (GAMMA + 1.0))


def quantile(counts: Mapping[int, int], q: float) -> float | None:
    """Return the q-quantile, within 1 % of the exact one where all values are 0 or at least :data:`SMALLEST`.

    Exact means linear between the two neighbouring ranks of q * (n - 1), which is numpy's default.

    Args:
        counts: Counts by bin.
        q: From 0 to 1.

    Returns:
        None if nothing was counted.

    Raises:
        ValueError: q is outside [0, 1].
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"expected q in [0, 1], got {q!r}")
    n = sum(counts.values())
    if not n:
        return None
    rank = q * (n - 1)
    lower = math.floor(rank)
    upper = min(lower + 1, n - 1)
    seen, low = 0, None
    for index in sorted(counts):
        seen += counts[index]
        if low is None and seen > lower:
            low = value(index)
        if low is not None and seen > upper:
            return low + (rank - lower) * (value(index) - low)
    raise ValueError(f"counts must not be negative, got {min(counts.values())}")
