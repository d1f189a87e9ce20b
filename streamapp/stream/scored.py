"""The encoding of the internal topic ``scored``: columns as bytes, behind a version and a kind.

First byte: version 1. Second: ``R`` rows, ``A`` arrivals, ``T`` tick. Then msgpack. A column is a type letter (that of
:mod:`struct`) and its little-endian items: one item stands for as many rows as there are.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streamapp.core.events import (
    SOURCES,
    Arrivals,
    Floats,
    Ints,
    Kind,
    Names,
    Scored,
    ScoredBatch,
    Tick,
    Values,
    Verdict,
)
from streamapp.errors import DecodeError

VERSION = 1
MAX_ROWS = 1_000_000
_ROW_BYTES = 128
"""What the numbers of a row take, at most."""
_TYPES = {"B": "<u1", "H": "<u2", "I": "<u4", "q": "<i8", "Q": "<u8", "d": "<f8"}


class _Labels(Struct, array_like=True):
    kind: bytes
    number: bytes
    words: tuple[str, ...]


class _Strings(Struct, array_like=True):
    code: bytes
    words: tuple[str, ...]


class _Rows(Struct, array_like=True):
    rows: int
    model: str
    partition: int
    group: _Strings
    version: _Strings
    series: _Strings
    unit: _Strings
    verdict: bytes
    offset: bytes
    outcome_offset: bytes
    id_hash: bytes
    ts: bytes
    log_time: bytes
    outcome_ts: bytes
    outcome_log_time: bytes
    prediction: _Labels
    score: bytes
    classes: tuple[str, ...]
    probabilities: bytes
    outcome: _Labels
    loss: bytes
    outcome_source: bytes
    latency: bytes
    features: bytes
    feature_lengths: bytes


_encode = msgspec.msgpack.Encoder().encode
_rows = msgspec.msgpack.Decoder(_Rows).decode
_KINDS: dict[int, Callable[[bytes], Scored]] = {
    ord("R"): lambda data: _batch(_rows(data)),
    ord("A"): msgspec.msgpack.Decoder(Arrivals).decode,
    ord("T"): msgspec.msgpack.Decoder(Tick).decode,
}


def encode_scored(message: Scored) -> bytes:
    """Return a message of ``scored`` as bytes."""
    if isinstance(message, ScoredBatch):
        return b"\x01R" + _encode(_packed(message))
    return (b"\x01A" if isinstance(message, Arrivals) else b"\x01T") + _encode(message)


def decode_scored(data: bytes) -> Scored:
    """Return the message in some bytes; its arrays may be read-only.

    Raises:
        DecodeError: The bytes are not what :func:`encode_scored` makes, or of another version.
    """
    if len(data) < 2 or data[0] != VERSION:
        found = f"version {data[0]}" if data else "no bytes"
        raise DecodeError(f"expected a `scored` message of version {VERSION}, got {found}")
    decode = _KINDS.get(data[1])
    if decode is None:
        raise DecodeError(f"expected rows, arrivals or a tick, got kind {data[1:2]!r}")
    try:
        return decode(data[2:])
    except DecodeError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, KeyError) as error:
        raise DecodeError(f"`scored` message cannot be read: {error}") from error


def split(batch: ScoredBatch, limit_bytes: int) -> list[ScoredBatch]:
    """Cut rows so that each part is encoded in fewer than *limit_bytes*, unless a single row takes more."""
    lengths = np.diff(batch.feature_ends, prepend=0) + _ROW_BYTES + 8 * len(batch.classes)
    for column in (batch.group, batch.version, batch.series, batch.unit):
        lengths = lengths + _word_bytes(column.words, column.code)
    for labels in (batch.prediction, batch.outcome):
        lengths = lengths + _word_bytes(labels.words, np.where(labels.kind == Kind.STRING, labels.number, -1))
    fixed = 256 + len(batch.model.encode()) + sum(len(word.encode()) + 5 for word in batch.classes)
    room = max(limit_bytes - fixed, 1)
    ends = np.cumsum(lengths)
    parts, start = [], 0
    while start < len(batch):
        before = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, before + room, side="left")), start + 1)
        parts.append(batch if start == 0 and end >= len(batch) else _part(batch, start, end))
        start = end
    return parts


def _word_bytes(words: tuple[str, ...], codes: NDArray[Any]) -> Ints:
    """Return what the words of each row take, as if none was shared."""
    sizes = np.array([*(len(word.encode()) + 5 for word in words), 0], dtype=np.int64)
    return sizes[codes.astype(np.int64)]


def _part(batch: ScoredBatch, start: int, end: int) -> ScoredBatch:
    rows = slice(start, end)
    first = int(batch.feature_ends[start - 1]) if start else 0
    ends = batch.feature_ends[rows] - first
    return ScoredBatch(
        model=batch.model,
        partition=batch.partition,
        group=_names(batch.group, rows),
        version=_names(batch.version, rows),
        series=_names(batch.series, rows),
        unit=_names(batch.unit, rows),
        verdict=batch.verdict[rows],
        offset=batch.offset[rows],
        outcome_offset=batch.outcome_offset[rows],
        id_hash=batch.id_hash[rows],
        ts=batch.ts[rows],
        log_time=batch.log_time[rows],
        outcome_ts=batch.outcome_ts[rows],
        outcome_log_time=batch.outcome_log_time[rows],
        prediction=_labels(batch.prediction, rows),
        score=batch.score[rows],
        classes=batch.classes,
        probabilities=batch.probabilities[rows],
        outcome=_labels(batch.outcome, rows),
        loss=batch.loss[rows],
        outcome_source=batch.outcome_source[rows],
        latency=batch.latency[rows],
        features=batch.features[first : first + int(ends[-1])],
        feature_ends=ends,
    )


def _names(names: Names, rows: slice) -> Names:
    """Return some rows of a column, with the words that they use, in their old order."""
    used, codes = np.unique(names.code[rows], return_inverse=True)
    missing = int(len(used) > 0 and used[0] < 0)
    words = tuple(names.words[code] for code in used[missing:].tolist())
    return Names(code=(codes - missing).astype(np.int32), words=words)


def _labels(values: Values, rows: slice) -> Values:
    kind, number = values.kind[rows], values.number[rows].copy()
    strings = kind == Kind.STRING
    used, codes = np.unique(number[strings].astype(np.int64), return_inverse=True)
    number[strings] = codes
    return Values(kind=kind, number=number, words=tuple(values.words[code] for code in used.tolist()))


# Columns to bytes


def _packed(batch: ScoredBatch) -> _Rows:
    return _Rows(
        rows=len(batch),
        model=batch.model,
        partition=batch.partition,
        group=_strings(batch.group),
        version=_strings(batch.version),
        series=_strings(batch.series),
        unit=_strings(batch.unit),
        verdict=_counts(batch.verdict),
        offset=_counts(batch.offset),
        outcome_offset=_counts(batch.outcome_offset + 1),
        id_hash=_column("Q", batch.id_hash),
        ts=_floats(batch.ts),
        log_time=_floats(batch.log_time),
        outcome_ts=_floats(batch.outcome_ts),
        outcome_log_time=_floats(batch.outcome_log_time),
        prediction=_values(batch.prediction),
        score=_floats(batch.score),
        classes=batch.classes,
        probabilities=b"d" + np.ascontiguousarray(batch.probabilities, dtype="<f8").tobytes(),
        outcome=_values(batch.outcome),
        loss=_floats(batch.loss),
        outcome_source=_counts(batch.outcome_source),
        latency=_floats(batch.latency),
        features=batch.features,
        feature_lengths=_counts(np.diff(batch.feature_ends, prepend=0)),
    )


def _strings(names: Names) -> _Strings:
    return _Strings(code=_counts(names.code + 1), words=names.words)


def _values(values: Values) -> _Labels:
    number = values.number
    with np.errstate(invalid="ignore"):
        small = number.astype(np.uint8)
    # Bools and places of words need no eight bytes. A negative zero does.
    exact = bool((small == number).all()) and not np.signbit(number).any()
    return _Labels(kind=_counts(values.kind), number=_counts(small) if exact else _floats(number), words=values.words)


def _counts(column: NDArray[Any]) -> bytes:
    """Pack integers, which are small and not negative as a rule."""
    largest = int(column.max()) if len(column) else 0
    letter = "B" if largest < 2**8 else "H" if largest < 2**16 else "I" if largest < 2**32 else "q"
    if len(column) and column.min() < 0:
        letter = "q"
    return _column(letter, column.astype(_TYPES[letter]))


def _floats(column: Floats) -> bytes:
    return _column("d", column)


def _column(letter: str, column: NDArray[Any]) -> bytes:
    data = column.astype(_TYPES[letter], copy=False).tobytes()
    size = column.dtype.itemsize
    # Equal to itself moved by one item: all items are the same, nan included.
    if len(data) > size and data[size:] == data[:-size]:
        data = data[:size]
    return letter.encode() + data


# Bytes to columns


def _batch(rows: _Rows) -> ScoredBatch:
    n = rows.rows
    if not 0 <= n <= MAX_ROWS:
        raise DecodeError(f"expected 0 to {MAX_ROWS} rows, got {n}")
    lengths = _ints(rows.feature_lengths, n)
    size = len(rows.features)
    if (n and not 0 <= lengths.min() <= lengths.max() <= size) or int(lengths.sum()) != size:
        raise DecodeError(f"expected lengths of features that make up {size} bytes, got {int(lengths.sum())}")
    width = len(rows.classes)
    return ScoredBatch(
        model=rows.model,
        partition=rows.partition,
        group=_read_names(rows.group, n),
        version=_read_names(rows.version, n),
        series=_read_names(rows.series, n),
        unit=_read_names(rows.unit, n),
        verdict=_codes(rows.verdict, n, len(Verdict)),
        offset=_ints(rows.offset, n),
        outcome_offset=_ints(rows.outcome_offset, n) - 1,
        id_hash=_items(rows.id_hash, n, "Q"),
        ts=_items(rows.ts, n, "d"),
        log_time=_items(rows.log_time, n, "d"),
        outcome_ts=_items(rows.outcome_ts, n, "d"),
        outcome_log_time=_items(rows.outcome_log_time, n, "d"),
        prediction=_read_values(rows.prediction, n),
        score=_items(rows.score, n, "d"),
        classes=rows.classes,
        probabilities=_exactly(rows.probabilities, n * width).reshape(n, width),
        outcome=_read_values(rows.outcome, n),
        loss=_items(rows.loss, n, "d"),
        outcome_source=_codes(rows.outcome_source, n, len(SOURCES)),
        latency=_items(rows.latency, n, "d"),
        features=rows.features,
        feature_ends=np.cumsum(lengths),
    )


def _read_names(names: _Strings, n: int) -> Names:
    code = _ints(names.code, n) - 1
    if n and not -1 <= code.min() <= code.max() < len(names.words):
        raise DecodeError(f"expected codes of {len(names.words)} words, got up to {code.max()}")
    return Names(code=code.astype(np.int32), words=names.words)


def _read_values(labels: _Labels, n: int) -> Values:
    kind = _codes(labels.kind, n, len(Kind))
    number = _items(labels.number, n, "Bd").astype(np.float64, copy=False)
    places = number[kind == Kind.STRING]
    if len(places) and not ((places >= 0) & (places < len(labels.words)) & (places == np.floor(places))).all():
        raise DecodeError(f"expected places of {len(labels.words)} words")
    return Values(kind=kind, number=number, words=labels.words)


def _codes(data: bytes, n: int, end: int) -> NDArray[np.uint8]:
    codes = _items(data, n, "B")
    if n and codes.max() >= end:
        raise DecodeError(f"expected codes below {end}, got {codes.max()}")
    return codes


def _ints(data: bytes, n: int) -> Ints:
    return _items(data, n, "BHIq").astype(np.int64, copy=False)


def _exactly(data: bytes, n: int) -> Floats:
    items: Floats = np.frombuffer(data[1:], "<f8")
    if data[:1] != b"d" or len(items) != n:
        raise DecodeError(f"expected {n} probabilities, got {len(items)}")
    return items


def _items(data: bytes, n: int, letters: str) -> NDArray[Any]:
    """Return the *n* items of a column that has one of these types."""
    letter = data[:1].decode()
    if not letter or letter not in letters:
        raise DecodeError(f"expected a column of type {' or '.join(letters)}, got {letter!r}")
    items = np.frombuffer(data[1:], _TYPES[letter])
    if len(items) == n:
        return items
    if len(items) != 1:
        raise DecodeError(f"expected {n} items or 1, got {len(items)}")
    return np.full(n, items[0])
