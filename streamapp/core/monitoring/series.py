"""What was known when, series by series: persistence and seasonal baselines of many entities."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Final
from zlib import crc32

import msgspec
from msgspec import Struct, field

from streamapp.errors import CheckpointError

SERIES_MAX: Final = 65_536
"""Series kept; beyond, the one that was silent longest is forgotten."""
POINTS_MAX: Final = 65_536
"""Points kept per series; when they are full the older half is forgotten."""
BUCKETS: Final = 64
"""Checkpoint entries that series are spread over by name."""


class Series:
    """Points (log time, value) of each series.

    The newest points of a series are kept however old, so that a monthly series has its persistence; older ones as
    long as :meth:`put` is told that questions may reach back to them.

    Args:
        reach: How many points back :meth:`value` is asked for.
    """

    def __init__(self, reach: int = 1) -> None:
        self._reach = reach
        self._points: dict[str, _Points] = {}
        """The series last put into comes last."""
        self._puts = 0
        self._changed: set[int] = set()

    def __len__(self) -> int:
        """Return how many series are kept."""
        return len(self._points)

    def put(self, series: str, time: float, value: float, horizon: float) -> None:
        """Take a point; of equal times the one that came first is first.

        Args:
            series: Where it belongs.
            time: Log time from which it is known.
            value: Code of a class, or a number.
            horizon: Log time that no question is about any more.
        """
        known = self._points.pop(series) if series in self._points else _Points()
        self._puts = known.put = self._puts + 1
        self._points[series] = known
        times, values = known.times, known.values
        place = bisect_right(times, time)
        times.insert(place, time)
        values.insert(place, value)
        self._changed.add(crc32(series.encode("utf-8", "surrogatepass")) % BUCKETS)
        if (len(times) >= 64 and times[len(times) // 2] < horizon) or len(times) > POINTS_MAX:
            needless = max(bisect_left(times, horizon) - self._reach, 0)
            if len(times) > POINTS_MAX:
                needless = max(needless, POINTS_MAX // 2)
            del times[:needless], values[:needless]
        if len(self._points) > SERIES_MAX:
            silent = next(iter(self._points))
            del self._points[silent]
            self._changed.add(_bucket(silent))

    def value(self, series: str, time: float, back: int = 1) -> float | None:
        """Return the value *back* points before a log time, None where there was none or it is not kept."""
        found = self._points.get(series)
        if found is None:
            return None
        place = bisect_left(found.times, time) - back
        return found.values[place] if place >= 0 else None

    def take(self) -> dict[str, bytes | None]:
        """Return the checkpoint entries that have changed since the last time."""
        if not self._changed:
            return {}
        buckets: dict[int, dict[str, _Points]] = {bucket: {} for bucket in sorted(self._changed)}
        for series, points in self._points.items():
            bucket = _bucket(series)
            if bucket in buckets:
                buckets[bucket][series] = points
        self._changed = set()
        return {str(bucket): msgspec.msgpack.encode(found) if found else None for bucket, found in buckets.items()}

    def load(self, entries: Mapping[str, bytes]) -> None:
        """Take over the state that :meth:`take` has returned over time.

        Raises:
            CheckpointError: An entry cannot be read.
        """
        found: list[tuple[str, _Points]] = []
        try:
            for data in entries.values():
                found.extend(msgspec.msgpack.decode(data, type=dict[str, _Points]).items())
        except msgspec.DecodeError as error:
            raise CheckpointError(f"known outcomes of series cannot be read: {error}") from error
        found.sort(key=lambda item: item[1].put)
        self._points = dict(found)
        self._puts = found[-1][1].put if found else 0


class _Points(Struct):
    """One series: times and values, both in order of time."""

    put: int = 0
    """Number of the put that was the last one here."""
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def _bucket(series: str) -> int:
    return crc32(series.encode("utf-8", "surrogatepass")) % BUCKETS
