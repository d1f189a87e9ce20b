"""Recorded events: files of one JSON object a line, read whole and put in the order in which they happened."""

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import cramjam
import numpy as np

from streamapp.core.events import Floats, Ints, Outcome, Prediction
from streamapp.errors import ConfigError, DecodeError
from streamapp.stream.codec import decode_outcomes, decode_predictions

Kind = Literal["predictions", "outcomes"]
Event = Prediction | Outcome | DecodeError
_CHUNK = 10_000
"""Lines decoded at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Events of one kind, in order of time, ties in order of line."""

    kind: Kind
    values: list[bytes]
    """The lines as they were."""
    events: list[Event]
    """What they say, or why they say nothing."""
    times: Floats
    """Event time of each, shape (n,). A line that says none has that of the good line before it."""
    lines: Ints
    """Number of each line in its file, from 1; shape (n,)."""

    def __len__(self) -> int:
        """Return the number of events, bad ones too."""
        return len(self.values)

    def first_bad(self) -> tuple[int, DecodeError] | None:
        """Return number and error of the first line that could not be read, None where all could."""
        bad = [(int(self.lines[i]), event) for i, event in enumerate(self.events) if isinstance(event, DecodeError)]
        return min(bad, key=lambda one: one[0]) if bad else None


def read(path: str, kind: Kind, *, progress: Callable[[int], None] = lambda _: None) -> Recording:
    """Read a file of events: JSON lines, also ``.gz`` or ``.zst``; ``-`` is standard input.

    Args:
        path: The file.
        kind: What it holds.
        progress: Called with the number of lines since the last call.

    Raises:
        ConfigError: the file cannot be read, or is of a kind that is not understood.
    """
    values: list[bytes] = []
    numbers: list[int] = []
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                value = line.rstrip(b"\r\n")
                if value.strip():
                    values.append(value)
                    numbers.append(number)
    except (OSError, EOFError, zlib.error, cramjam.DecompressionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "cut off"
        raise ConfigError(f"{path}: cannot be read ({reason})") from None
    return _in_order(kind, values, numbers, progress)


def of_values(kind: Kind, values: Sequence[bytes]) -> Recording:
    """Return a recording of events that are at hand as JSON."""
    return _in_order(kind, list(values), list(range(1, len(values) + 1)), lambda _: None)


def _in_order(kind: Kind, values: list[bytes], numbers: list[int], progress: Callable[[int], None]) -> Recording:
    decode = decode_predictions if kind == "predictions" else decode_outcomes
    events: list[Event] = []
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        events.extend(decode(chunk))
        progress(len(chunk))
    times = np.fromiter(_times(events), dtype=np.float64, count=len(events))
    lines = np.array(numbers, dtype=np.int64)
    if np.any(times[1:] < times[:-1]):
        order = np.argsort(times, kind="stable")
        places = order.tolist()
        return Recording(
            kind=kind,
            values=[values[place] for place in places],
            events=[events[place] for place in places],
            times=times[order],
            lines=lines[order],
        )
    return Recording(kind=kind, values=values, events=events, times=times, lines=lines)


def _times(events: Sequence[Event]) -> Iterator[float]:
    last = next((float(event.ts) for event in events if not isinstance(event, DecodeError)), 0.0)  # type: ignore[arg-type]
    for event in events:
        if not isinstance(event, DecodeError):
            last = event.ts  # type: ignore[assignment]  # the codec made it a float
        yield last


def _open(path: str) -> BinaryIO:
    if path == "-":
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    suffix = Path(path).suffix.lower()
    if suffix in (".parquet", ".csv"):
        raise ConfigError(f"{path}: {suffix} is not read yet: write one JSON object a line (.jsonl, also .gz or .zst)")
    if suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if suffix == ".zst":
        return io.BytesIO(bytes(cramjam.zstd.decompress(Path(path).read_bytes())))
    return open(path, "rb")
