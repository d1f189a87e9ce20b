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
from streamapp.stream import codec

Kind = Literal["predictions", "outcomes"]
Event = Prediction | Outcome | DecodeError
PIECE = 1 << 18
"""Bytes read and decoded at once. Where one line is bad, the lines of its piece are looked at one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Events of one kind, in order of time, ties in order of line."""

    kind: Kind
    events: list[Event]
    """What the lines say, or why they say nothing."""
    times: Floats
    """Event time of each, shape (n,). A line that says none has that of the good line before it."""
    lines: Ints
    """Number of each line in its file, from 1; shape (n,)."""

    def __len__(self) -> int:
        """Return the number of events, bad ones too."""
        return len(self.events)

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
    reading = Reading(kind)
    try:
        with _open(path) as file:
            for piece in pieces(file):
                progress(reading.add(piece))
    except (OSError, EOFError, zlib.error, cramjam.DecompressionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "cut off"
        raise ConfigError(f"{path}: cannot be read ({reason})") from None
    return reading.done()


def of_values(kind: Kind, values: Sequence[bytes]) -> Recording:
    """Return a recording of events that are at hand as JSON."""
    reading = Reading(kind)
    reading.add_each(values, np.arange(1, len(values) + 1))
    return reading.done()


class Reading:
    """A file on its way into a recording."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._events: list[Event] = []
        self._times: list[Floats] = []
        self._lines: list[Ints] = []
        self._line = 1

    def add(self, piece: bytes) -> int:
        """Take some whole lines, each ended by a line feed, and return how many."""
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n")
        decode = codec.decode_prediction_lines if self._kind == "predictions" else codec.decode_outcome_lines
        events = decode(piece)
        first, self._line = self._line, self._line + piece.count(b"\n")
        numbers = np.arange(first, self._line)
        if events is not None:
            self._append(events, numbers)
        else:
            values = piece[:-1].split(b"\n")
            places = [place for place, value in enumerate(values) if value.strip()]
            self.add_each([values[place] for place in places], numbers[places])
        return len(numbers)

    def add_each(self, values: Sequence[bytes], numbers: Ints) -> None:
        """Take lines that may be bad, and their numbers."""
        decode = codec.decode_predictions if self._kind == "predictions" else codec.decode_outcomes
        self._append(decode(values), numbers)

    def _append(self, events: Sequence[Event], numbers: Ints) -> None:
        self._events += events
        self._lines.append(numbers)
        if DecodeError in set(map(type, events)):
            times = [np.nan if isinstance(event, DecodeError) else event.ts for event in events]
        else:
            times = [event.ts for event in events]  # type: ignore[union-attr]
        self._times.append(np.array(times, dtype=np.float64))

    def done(self) -> Recording:
        """Return everything, in order of time."""
        events = self._events
        times = _filled(np.concatenate([np.empty(0), *self._times]))
        lines = np.concatenate([np.empty(0, dtype=np.int64), *self._lines])
        if np.any(times[1:] < times[:-1]):
            order = np.argsort(times, kind="stable")
            events = [events[place] for place in order.tolist()]
            times, lines = times[order], lines[order]
        return Recording(kind=self._kind, events=events, times=times, lines=lines)


def _filled(times: Floats) -> Floats:
    """Return times with that of the good line before it for each bad line; before all good ones stands the first."""
    bad = np.isnan(times)
    if not bad.any():
        return times
    if bad.all():
        return np.zeros_like(times)
    places = np.maximum.accumulate(np.where(bad, -1, np.arange(len(times))))
    return times[np.where(places < 0, np.argmin(bad), places)]


def pieces(file: BinaryIO, size: int = PIECE) -> Iterator[bytes]:
    """Yield whole lines, each ended by a line feed, in pieces of about *size* bytes."""
    while piece := file.read(size):
        piece += file.readline()
        yield piece if piece.endswith(b"\n") else piece + b"\n"


def _open(path: str) -> BinaryIO:
    if path == "-":
        if sys.stdin is None:
            raise ConfigError("standard input is closed, there is nothing to read")
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    suffix = Path(path).suffix.lower()
    if suffix in (".parquet", ".csv"):
        raise ConfigError(f"{path}: {suffix} is not read yet: write one JSON object a line (.jsonl, also .gz or .zst)")
    if suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if suffix == ".zst":
        return io.BytesIO(bytes(cramjam.zstd.decompress(Path(path).read_bytes())))
    return open(path, "rb")
