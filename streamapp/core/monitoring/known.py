"""What was known when: outcomes in the order of their log time, with running sums over them."""

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from streamapp.core.events import Floats, Hashes, Ints
from streamapp.core.monitoring import packing
from streamapp.errors import CheckpointError

CAPACITY: Final = 262_144
"""Points kept; when they are full the older half is thinned."""
CELLS: Final = 1 << 22
"""Running sums kept; where there are many classes, fewer points are."""
PAGE: Final = 1024
"""Points per checkpoint entry."""
NEAR: Final = 4096
"""Points that are searched without a look at where among them the first question lies."""
MEDIAN_OF: Final = 10_000
"""Newest points that a median is over."""


class Known:
    """Points (log time, value), with running sums, for questions about the past.

    A question is about the points known before a log time, strictly. Points may come in any order of their time; of
    equal times the one that came first is first. Two things bound the memory. :meth:`trim` drops what no question can
    reach any more. When :data:`CAPACITY` is reached, every second point of the older half is dropped; the others keep
    their sums. A point that comes later than these is taken to have been known from then on only. So an answer may be
    of fewer points than were known, never of more.

    Args:
        classes: Number of classes to begin with: the sums are counts of each. None: values are numbers, the sums are
            their count and sum.
        median: Whether medians are asked for.
        reach: How many points back :meth:`value` is asked for.
    """

    def __init__(self, *, classes: int | None = None, median: bool = False, reach: int = 1) -> None:
        self._classes = classes is not None
        self._reach = max(reach, MEDIAN_OF if median else 1)
        self._start = 0
        """Points dropped before the first kept one by :meth:`trim`."""
        self._frozen = 0
        """Points at the beginning that were thinned; nothing is put before their end any more."""
        self._floor = -np.inf
        """Nothing is put before this time."""
        self._n = 0
        width = 2 if classes is None else classes
        self._base: Floats = np.zeros(width)
        """Sums before the first kept point."""
        self._times: Floats = np.empty(64)
        self._values: Floats = np.empty(64)
        self._ids: Hashes = np.empty(64, np.uint64)
        self._sums: Floats = np.empty((64, width))
        self._medians = _Medians() if median else None
        self._changed = 0
        """Points from here on, counted from the first ever, have changed since :meth:`take`."""
        self._pages = range(0)
        """Pages that the checkpoint holds."""

    def __len__(self) -> int:
        """Return how many points are kept."""
        return self._n

    @property
    def width(self) -> int:
        """Number of sums: classes that fit without widening."""
        return len(self._base)

    def make_room(self) -> int:
        """Return how many points can be put, at least 1: some are thinned if it is full."""
        return self._room(self.width)

    @property
    def ids(self) -> Hashes:
        """Ids of the points kept, in order."""
        return self._ids[: self._n]

    def widen(self, classes: int) -> None:
        """Make place for that many classes; points are thinned until they are as few as may be kept then."""
        if classes > self.width:
            width = max(classes, 2 * self.width)
            self._room(width)  # before the sums are wider, not after: they may be many times as wide
            more = width - self.width
            self._sums = np.pad(self._sums, ((0, 0), (0, more)))
            self._base = np.pad(self._base, (0, more))
            if self._frozen:
                self._changed = self._start  # their sums lie in the pages

    def put(self, times: Floats, values: Floats, ids: Hashes | None = None) -> None:
        """Take points, in the order in which they came; at most :meth:`make_room` says, shape (n,).

        Args:
            times: Log time from which each is known.
            values: Code of the class, less than :attr:`width`, or the number.
            ids: What :attr:`ids` shall return.
        """
        if not len(times):
            return
        n, end = self._n, self._n + len(times)
        self._grow(end)
        times = np.maximum(times, self._floor)
        self._times[n:end], self._values[n:end] = times, values
        self._ids[n:end] = 0 if ids is None else ids
        first = n
        if n and times.min() < self._times[n - 1]:
            first = int(np.searchsorted(self._times[:n], times.min(), "right"))
        if self._medians is not None:
            self._medians.back_to(first, self._values)
        if first < n or (times[1:] < times[:-1]).any():
            order = np.argsort(self._times[first:end], kind="stable")
            for column in (self._times, self._values, self._ids):
                column[first:end] = column[first:end][order]
        self._n = end
        self._add_up(first)
        self._changed = min(self._changed, self._start + first)

    def find(self, times: Floats) -> Ints:
        """Return how many kept points were known before each of these times; the other methods take that."""
        kept, start = self._times[: self._n], 0
        if self._n > NEAR and len(times):
            # What is asked lies near the end as a rule: a short search is a quick one.
            start = int(kept.searchsorted(times.min()))
        return kept[start:].searchsorted(times) + start

    def sums(self, place: Ints) -> Floats:
        """Return the sums over the points known, shape (n, width); 0 where none was known, or none is kept."""
        result = self._sums.take(np.maximum(place - 1, 0), axis=0)
        if not self._n or not np.logical_and.reduce(place):
            result = np.where((place > 0)[:, None], result, 0.0)
        return result

    def value(self, place: Ints, back: int = 1) -> Floats:
        """Return the value *back* points ago, nan where there was none or it is not kept."""
        index = place - back
        lowest = 0 if back == 1 else max(self._frozen - 1, 0)
        fits = index >= lowest
        result = self._values.take(np.maximum(index, 0))
        return result if np.logical_and.reduce(fits) else np.where(fits, result, np.nan)

    def median(self, place: Ints) -> Floats:
        """Return the median of the newest :data:`MEDIAN_OF` points known, nan where there were none."""
        assert self._medians is not None
        medians = self._medians.up_to(int(place.max(initial=0)), self._values)
        result = np.full(len(place), np.nan)
        some = place > 0
        result[some] = medians[place[some] - 1]
        return result

    def would_trim(self, horizon: float) -> bool:
        """Tell whether :meth:`trim` would drop points, at a glance.

        Further points of *horizon* or later do not make it drop any where it would not have.
        """
        least = _whole_pages(self._start + max(PAGE, self._n // 4) + PAGE - 1) - self._start
        lowest = least + self._reach
        return lowest <= self._n and bool(self._times[lowest - 1] < horizon)

    def trim(self, horizon: float) -> bool:
        """Drop points that no question about *horizon* or later needs; return whether any were dropped.

        Only when they are many: a page at least, and a quarter of all.
        """
        if not self.would_trim(horizon):
            return False
        needless = int(np.searchsorted(self._times[: self._n], horizon)) - self._reach
        drop = _whole_pages(self._start + needless) - self._start
        self._base = self._sums[drop - 1].copy()
        if self._medians is not None:
            self._medians.up_to(self._n, self._values)
        self._keep(np.arange(drop, self._n))
        self._start += drop
        self._frozen = max(0, self._frozen - drop)
        self._changed = max(self._changed, self._start)
        self._set_floor()
        return True

    def take(self) -> dict[str, bytes | None]:
        """Return the checkpoint entries that have changed since the last time, None for those to be deleted."""
        if self._medians is not None:
            self._medians.up_to(self._n, self._values)
        end = self._start + self._n
        pages = range(self._start // PAGE, -(-end // PAGE))
        entries: dict[str, bytes | None] = {str(page): None for page in self._pages if page not in pages}
        for page in range(max(self._changed // PAGE, pages.start), pages.stop):
            entries[str(page)] = self._page(page)
        head = (self._start, self._n, self._frozen, self._floor, packing.pack(self._base))
        entries["head"] = msgspec.msgpack.encode(head)
        self._changed, self._pages = end, pages
        return entries

    def load(self, entries: Mapping[str, bytes]) -> None:
        """Take over the state that :meth:`take` has returned over time.

        Raises:
            CheckpointError: An entry is missing or cannot be read.
        """
        try:
            head = msgspec.msgpack.decode(entries["head"], type=tuple[int, int, int, float, bytes])
            self._start, n, self._frozen, self._floor, base = head
            pages = range(self._start // PAGE, -(-(self._start + n) // PAGE))
            parts = [msgspec.msgpack.decode(entries[str(page)], type=tuple[bytes, ...]) for page in pages]
        except (KeyError, msgspec.DecodeError) as error:
            raise CheckpointError(f"known outcomes cannot be read: {error!r}") from error
        self._base = packing.floats(base)
        self._times, self._values, self._ids = np.zeros(n + 64), np.zeros(n + 64), np.zeros(n + 64, np.uint64)
        self._sums = np.zeros((n + 64, len(self._base)))
        if parts:
            self._times[:n] = np.concatenate([packing.floats(part[0]) for part in parts])
            self._values[:n] = np.concatenate([packing.floats(part[1]) for part in parts])
            self._ids[:n] = np.concatenate([packing.hashes(part[2]) for part in parts])
            frozen = np.concatenate([packing.floats(part[3]) for part in parts])
            self._sums[: self._frozen] = frozen.reshape(self._frozen, len(self._base))
            if self._medians is not None:
                medians = np.concatenate([packing.floats(part[4]) for part in parts])
                if len(medians) == n:
                    self._medians.load(medians, self._values)
        self._n = n
        self._add_up(self._frozen)
        self._changed, self._pages = self._start + n, pages

    def _page(self, page: int) -> bytes:
        rows = slice(max(page * PAGE - self._start, 0), min((page + 1) * PAGE - self._start, self._n))
        frozen = self._sums[rows.start : max(rows.start, min(rows.stop, self._frozen))].ravel()
        medians = np.empty(0) if self._medians is None else self._medians.found[rows]
        columns = (self._times[rows], self._values[rows], self._ids[rows], frozen, medians)
        return msgspec.msgpack.encode(tuple(map(packing.pack, columns)))

    def _room(self, width: int) -> int:
        """Thin points until there is room for one at least, were there so many sums; return for how many there is."""
        capacity = min(CAPACITY, max(CELLS // width, 4 * PAGE))
        while self._n >= capacity:
            self._thin()
        return capacity - self._n

    def _thin(self) -> None:
        if self._medians is not None:
            self._medians.up_to(self._n, self._values)
        half = self._n // 2
        # The last of the half stays: the sums go on from it.
        self._keep(np.concatenate((np.arange((half - 1) % 2, half, 2), np.arange(half, self._n))))
        self._frozen = (half + 1) // 2
        self._changed = self._start
        self._set_floor()

    def _keep(self, kept: Ints) -> None:
        size = len(kept) + len(kept) // 4 + 64
        for name in ("_times", "_values", "_ids", "_sums"):
            column = getattr(self, name)
            shorter = np.zeros((size, *column.shape[1:]), column.dtype)
            shorter[: len(kept)] = column[kept]
            setattr(self, name, shorter)
        if self._medians is not None:
            self._medians.keep(kept)
        self._n = len(kept)

    def _set_floor(self) -> None:
        # Behind it there must be as many points as a look back needs, none left out.
        if self._n:
            self._floor = float(self._times[min(self._frozen + self._reach, self._n) - 1])

    def _grow(self, size: int) -> None:
        if size > len(self._times):
            for name in ("_times", "_values", "_ids", "_sums"):
                column = getattr(self, name)
                longer = np.empty((max(size, 2 * len(column)), *column.shape[1:]), column.dtype)
                longer[: self._n] = column[: self._n]
                setattr(self, name, longer)

    def _add_up(self, first: int) -> None:
        """Sum up anew from a point on; always one after the other, so that nobody's order of arrival shows."""
        steps = np.zeros((self._n - first + 1, self.width))
        steps[0] = self._sums[first - 1] if first else self._base
        values = self._values[first : self._n]
        if not self._classes:
            steps[1:, 0] = 1.0
            steps[1:, 1] = values
        elif self.width == 2:
            np.subtract(1.0, values, out=steps[1:, 0])
            steps[1:, 1] = values
        else:
            steps[np.arange(1, len(steps)), values.astype(np.intp)] = 1.0
        np.add.accumulate(steps, axis=0, out=steps)
        self._sums[first : self._n] = steps[1:]


def _whole_pages(points: int) -> int:
    """Return how many of the first points ever are whole pages: so a page of the checkpoint keeps its points."""
    return points // PAGE * PAGE


class _Medians:
    """Median of the newest points up to each point, worked out when asked for, and again after a late point."""

    def __init__(self) -> None:
        self.found: Floats = np.empty(0)
        self._done = 0
        """Points whose median has been found."""
        self._window: list[float] = []
        """The newest of them, sorted."""

    def up_to(self, end: int, values: Floats) -> Floats:
        """Find the medians of the points before *end*, and return them."""
        if end <= self._done:
            return self.found
        if end > len(self.found):
            self.found = np.pad(self.found, (0, max(end, 2 * len(self.found)) - len(self.found)))
        window, oldest = self._window, self._done - MEDIAN_OF
        new = values[max(oldest, 0) : end].tolist()
        start = self._done - max(oldest, 0)
        medians = []
        for place in range(start, len(new)):
            insort(window, new[place])
            if len(window) > MEDIAN_OF:
                del window[bisect_left(window, new[place - MEDIAN_OF])]
            middle, odd = divmod(len(window), 2)
            medians.append(window[middle] if odd else 0.5 * (window[middle - 1] + window[middle]))
        self.found[self._done : end] = medians
        self._done = end
        return self.found

    def back_to(self, end: int, values: Floats) -> None:
        """Forget the points from *end* on; values are those that were there."""
        while self._done > end:
            self._done -= 1
            del self._window[bisect_left(self._window, values[self._done])]
            if self._done >= MEDIAN_OF:
                insort(self._window, float(values[self._done - MEDIAN_OF]))

    def keep(self, kept: Ints) -> None:
        """Leave out points, all of them found; the newest stay."""
        self.found, self._done = self.found[kept], len(kept)

    def load(self, found: Floats, values: Floats) -> None:
        """Take over medians, all of them found."""
        self.found, self._done = found, len(found)
        self._window = sorted(values[max(0, self._done - MEDIAN_OF) : self._done].tolist())
