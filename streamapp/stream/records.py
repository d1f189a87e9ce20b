"""Records of one partition, by columns: what a fetch brought is decoded, joined and counted a column at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

LOG_APPEND_TIME = 1
"""Kafka's number for a timestamp that the broker gave."""


class Row(NamedTuple):
    """One record."""

    offset: int
    timestamp: int
    """Milliseconds."""
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Records by rising offset. All columns have the same length."""

    offsets: NDArray[np.int64]
    """There may be gaps."""
    timestamps: NDArray[np.int64]
    """Milliseconds; -1 for none."""
    by_broker: NDArray[np.bool_]
    """Whether the broker gave the timestamp (``LogAppendTime``), and not the producer."""
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]

    @classmethod
    def of(cls, objects: Iterable[Any]) -> "Records":
        """Return the columns of records that a client made objects of."""
        columns = [(r.offset, r.timestamp, r.timestamp_type, r.key, r.value) for r in objects]
        offsets, timestamps, types, keys, values = zip(*columns, strict=True) if columns else ((),) * 5
        return cls(
            np.array(offsets, dtype=np.int64),
            np.array([-1 if timestamp is None else timestamp for timestamp in timestamps], dtype=np.int64),
            np.array([kind == LOG_APPEND_TIME for kind in types], dtype=np.bool_),
            keys,
            values,
        )

    @property
    def bytes(self) -> int:
        """Size of all values."""
        try:
            return sum(map(len, self.values))  # type: ignore[arg-type]
        except TypeError:  # there is a tombstone
            return sum(len(value) for value in self.values if value is not None)

    def since(self, offset: int) -> "Records":
        """Return the records from an offset on."""
        return self[int(np.searchsorted(self.offsets, offset)) :]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.values)

    def __iter__(self) -> Iterator[Row]:
        """Yield them one by one."""
        return map(Row, self.offsets.tolist(), self.timestamps.tolist(), self.keys, self.values)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> "Records": ...

    def __getitem__(self, place: int | slice) -> "Row | Records":
        """Return one of them, or some."""
        if isinstance(place, slice):
            return Records(
                self.offsets[place],
                self.timestamps[place],
                self.by_broker[place],
                self.keys[place],
                self.values[place],
            )
        return Row(int(self.offsets[place]), int(self.timestamps[place]), self.keys[place], self.values[place])

    def __add__(self, other: "Records") -> "Records":
        """Return these and then the others."""
        return Records(
            np.concatenate((self.offsets, other.offsets)),
            np.concatenate((self.timestamps, other.timestamps)),
            np.concatenate((self.by_broker, other.by_broker)),
            [*self.keys, *other.keys],
            [*self.values, *other.values],
        )


class Columns:
    """Collects records of one partition, by rising offset."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._counts: list[int] = []
        self._timestamps: list[int] = []
        self._by_broker: list[bool] = []
        self.keys: list[bytes | None] = []
        """Of the records so far; whoever adds a run adds theirs."""
        self.values: list[bytes | None] = []
        """Likewise."""

    def __len__(self) -> int:
        """Return how many have been collected."""
        return len(self.values)

    def run(self, first: int, count: int, timestamp: int, *, by_broker: bool) -> None:
        """Add *count* records whose offsets follow each other and that have one timestamp."""
        self._firsts.append(first)
        self._counts.append(count)
        self._timestamps.append(timestamp)
        self._by_broker.append(by_broker)

    def take(self) -> Records:
        """Return what was collected."""
        counts = np.array(self._counts, dtype=np.int64)
        ends = np.cumsum(counts)
        before = np.array(self._firsts, dtype=np.int64) - (ends - counts)
        return Records(
            np.repeat(before, counts) + np.arange(len(self.values)),
            np.repeat(np.array(self._timestamps, dtype=np.int64), counts),
            np.repeat(np.array(self._by_broker, dtype=np.bool_), counts),
            self.keys,
            self.values,
        )
