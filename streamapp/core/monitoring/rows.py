"""Joined rows of one model, as its parts take them: of one message, or of several that follow each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamapp.core.events import Bytes, Floats, Hashes, Ints, Names


@dataclass(slots=True, kw_only=True)
class Rows:
    """Joined rows in the order in which they were resolved; n of them, and shape (n,) unless said otherwise."""

    offsets: tuple[int, ...]
    """Of the ``scored`` messages that they come from."""
    ends: tuple[int, ...]
    """Where the rows of each message end."""
    group: Ints
    """Number of each row's group: its place among the model's groups."""
    block: Floats
    """Shape (COLUMNS, n)."""
    reason: Bytes
    """Why it is unscorable, index into :data:`~streamapp.core.monitoring.judging.REASONS`; 0 for the others."""
    unfit: bool
    """Some have a reason."""
    owned: bool
    """Some outcomes carried a loss of their own."""
    ts: Floats
    log_time: Floats
    outcome_ts: Floats
    known: Floats
    """Log time of the outcome."""
    came: NDArray[np.bool_] | None
    """Whether the outcome was not just assumed; None: none was."""
    ids: Hashes
    series: Names
    version: Names
    older: NDArray[np.bool_] | None = None
    """Answered by another version before the one that answers came: counted, but no news of that one. None: all are of
    the one that answers, or name none."""

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def fit(self) -> bool:
        """All could be scored on their outcomes."""
        return not (self.unfit or self.owned)


def join(parts: Sequence[Rows]) -> Rows:
    """Return rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    start = 0
    ends: list[int] = []
    for part in parts:
        ends += [start + end for end in part.ends]
        start += len(part)
    came = None
    if any(part.came is not None for part in parts):
        came = np.concatenate([np.ones(len(part), np.bool_) if part.came is None else part.came for part in parts])
    return Rows(
        offsets=tuple(offset for part in parts for offset in part.offsets),
        ends=tuple(ends),
        group=np.concatenate([part.group for part in parts]),
        block=np.concatenate([part.block for part in parts], axis=1),
        reason=np.concatenate([part.reason for part in parts]),
        unfit=any(part.unfit for part in parts),
        owned=any(part.owned for part in parts),
        ts=np.concatenate([part.ts for part in parts]),
        log_time=np.concatenate([part.log_time for part in parts]),
        outcome_ts=np.concatenate([part.outcome_ts for part in parts]),
        known=np.concatenate([part.known for part in parts]),
        came=came,
        ids=np.concatenate([part.ids for part in parts]),
        series=join_names([part.series for part in parts]),
        version=join_names([part.version for part in parts]),
        older=join_masks([(part.older, len(part)) for part in parts]),
    )


def join_masks(parts: Sequence[tuple[NDArray[np.bool_] | None, int]]) -> NDArray[np.bool_] | None:
    """Return masks one after the other, given with their lengths; None, here and there, is one without any mark."""
    if all(mask is None for mask, _ in parts):
        return None
    return np.concatenate([np.zeros(length, np.bool_) if mask is None else mask for mask, length in parts])


def sole(column: NDArray[Any]) -> Any:
    """Return the one value of a column that holds nothing else, as its stride of 0 shows; None of another column."""
    return column[0] if len(column) and not column.strides[0] else None


def join_columns(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return columns one after the other; if they hold one and the same value, so does the result by its stride."""
    first = parts[0]
    if not first.strides[0] and len(first):
        item = first[:1].tobytes()  # to the bit: 0.0 equals -0.0, and nan not itself
        if all(not part.strides[0] and part[:1].tobytes() == item for part in parts):
            return np.ndarray((sum(map(len, parts)),), first.dtype, item, 0, (0,))
    return np.concatenate(parts)


def join_names(parts: Sequence[Names]) -> Names:
    """Return columns of strings one after the other."""
    words = parts[0].words
    if all(part.words == words for part in parts):
        return Names(code=join_columns([part.code for part in parts]), words=words)
    places: dict[str, int] = {}
    codes = []
    for part in parts:
        table = np.array([*(places.setdefault(word, len(places)) for word in part.words), -1], np.int32)
        codes.append(table[part.code])  # code -1, no word, finds the -1 at the end
    return Names(code=np.concatenate(codes), words=tuple(places))


def names_at(names: Names, places: Ints | None) -> Names:
    """Return the strings of some rows, None for all of them."""
    return names if places is None else Names(code=names.code[places], words=names.words)


class ByGroup:
    """Where the rows of each group lie.

    Args:
        group: Number of each row's group, shape (n,).
        groups: How many groups there are.
    """

    def __init__(self, group: Ints, groups: int) -> None:
        self.group = group
        self.groups = groups
        self.totals: Ints = np.bincount(group, minlength=groups)
        """Rows of each group; likewise the next, as a list."""
        self.counts: list[int] = self.totals.tolist()
        self.present = [number for number, count in enumerate(self.counts) if count]
        """Groups that have rows."""
        self._order: Ints | None = None

    def sorted(self, column: NDArray[Any]) -> NDArray[Any]:
        """Return a column, or a table of columns, with the rows of the first group first, then those of the next."""
        return column if len(self.present) < 2 else column.take(self._places(), axis=-1)

    def slices(self) -> list[tuple[int, slice]]:
        """Return each group that has rows, and where they lie once sorted."""
        found, start = [], 0
        for number in self.present:
            end = start + self.counts[number]
            found.append((number, slice(start, end)))
            start = end
        return found

    def rows(self, part: slice) -> Ints:
        """Return the rows that lie at a slice once sorted."""
        return np.arange(part.start, part.stop) if len(self.present) < 2 else self._places()[part]

    def reduce(self, function: np.ufunc, column: NDArray[Any]) -> list[float]:
        """Return what a function makes of a column, sorted, in each group that has rows."""
        found: list[float] = function.reduceat(column, [part.start for _, part in self.slices()]).tolist()
        return found

    def _places(self) -> Ints:
        if self._order is None:
            # numpy sorts small integers by counting them.
            kind = np.uint8 if self.groups <= 2**8 else np.uint16 if self.groups <= 2**16 else np.int64
            self._order = self.group.astype(kind).argsort(kind="stable")
        return self._order


class Carry:
    """Sums by group that are carried on one row after the other: to the bit, they are the same however rows are cut.

    Args:
        by_group: The rows' groups.
    """

    def __init__(self, by_group: ByGroup) -> None:
        self._by_group = by_group
        # What lies in front of the rows is where their sums begin.
        self._keys = np.concatenate((np.arange(by_group.groups), by_group.group))
        self._weights = np.empty(len(self._keys))

    def on(self, sums: Floats, columns: Sequence[Floats]) -> Floats:
        """Return sums, shape (columns, groups), to which the rows' values have been added.

        Args:
            sums: What they were.
            columns: Values of each sum, shape (n,); none of them nan.
        """
        carried = np.empty(sums.shape)
        weights, groups = self._weights, self._by_group.groups
        before = sums.tolist()
        for place, values in enumerate(columns):
            same = next((i for i in range(place) if columns[i] is values and before[i] == before[place]), None)
            if same is not None:
                carried[place] = carried[same]
                continue
            weights[:groups] = sums[place]
            weights[groups:] = values
            carried[place] = np.bincount(self._keys, weights, groups)
        return carried

    def without(self, values: Floats, missing: NDArray[np.bool_] | None) -> tuple[Floats, Ints]:
        """Return values that add nothing where they are missing, and how many are not, shape (groups,)."""
        if missing is None:
            return values, self._by_group.totals
        gone = np.bincount(self._by_group.group[missing], minlength=self._by_group.groups)
        return np.where(missing, 0.0, values), self._by_group.totals - gone


def gaps(values: Floats) -> NDArray[np.bool_] | None:
    """Return which values are nan, None if none is."""
    missing = np.isnan(values)
    return missing if np.logical_or.reduce(missing) else None
